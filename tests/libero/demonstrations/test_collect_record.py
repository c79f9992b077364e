"""``atlasvla-collect``: what its record says, and which datasets it continues."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lerobot_atlasvla.libero.dataset_settings import CollectionError
from lerobot_atlasvla.libero.demonstrations import collect as collect_module
from lerobot_atlasvla.libero.demonstrations import collect_record as record_module
from lerobot_atlasvla.libero.demonstrations import collector as collector_module
from lerobot_atlasvla.libero.demonstrations.collect import collect
from lerobot_atlasvla.libero.demonstrations.collect_record import RECORD_NAME, Progress, describe_source
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, Job
from lerobot_atlasvla.libero.demonstrations.task_scene import Displacement
from tests.libero.demonstrations.fake_simulator import EXPECTED, SOURCE, config, contents, fake_attempt


@pytest.mark.parametrize("workers", [1, 3])
def test_contents_and_order_do_not_depend_on_the_workers(tmp_path, fake_simulator, workers):
    progress = collect(config(tmp_path / "ds", workers=workers))
    assert contents(tmp_path / "ds") == EXPECTED
    assert progress.new_episodes == 6
    record = json.loads((tmp_path / "ds" / "meta" / RECORD_NAME).read_text())
    assert record["tasks"]["5"] == {
        "name": "name_5",
        "instruction": "instruction 5",
        "attempts": 4,
        "kept": 3,
        "failures_in_a_row": 0,
        "mean_displacement_cm": None,
        "displaced": 0,
        "failures": 1,
        "recovery_attempts": 2,
        "recovery_kept": 1,
    }
    assert record["assets"] == "stand-in"
    assert record["settings"]["image_size"] == 8
    assert record["settings"]["recovery_share"] == 0.25
    assert record["wall_s"] >= 0


def displaced_attempt(job: Job) -> Attempt:
    """The vector has the length of the attempt's number; the bowl gets 1 cm further."""
    displacement = Displacement((0.0, float(job.attempt)), (0.0, -1.0 - job.attempt))
    return replace(fake_attempt(job), displacement=displacement)


def test_the_record_says_how_far_the_target_really_moved(tmp_path, fake_simulator, monkeypatch, capsys):
    monkeypatch.setattr(collect_module, "run_job", displaced_attempt)
    displaced = config(tmp_path / "ds", displace_cm=8.0, episodes_per_task=2)
    progress = collect(displaced)
    record = json.loads((tmp_path / "ds" / "meta" / RECORD_NAME).read_text())
    assert record["settings"]["displace_cm"] == 8
    # Of three attempts, of which the second failed: 1, 2 and 3 cm.
    assert record["tasks"]["5"]["attempts"] == 3
    assert record["tasks"]["5"]["mean_displacement_cm"] == pytest.approx(2.0)
    assert "    2.0 cm  instruction 5" in collect_module.summary(displaced, progress, 1.0)
    collect(replace(displaced, episodes_per_task=3))  # continued: the mean is over all four
    record = json.loads((tmp_path / "ds" / "meta" / RECORD_NAME).read_text())
    assert record["tasks"]["5"]["mean_displacement_cm"] == pytest.approx(2.5)


def test_attempts_that_could_not_be_displaced_are_not_in_that_mean(tmp_path, fake_simulator, monkeypatch):
    """Whether they come first or later."""

    def attempt(job: Job) -> Attempt:
        return displaced_attempt(job) if job.attempt != 1 else fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", attempt)
    collect(config(tmp_path / "ds", displace_cm=8.0, episodes_per_task=2))
    task = json.loads((tmp_path / "ds" / "meta" / RECORD_NAME).read_text())["tasks"]["5"]
    # Of three attempts the second was not displaced: 1 and 3 cm.
    assert (task["attempts"], task["displaced"], task["mean_displacement_cm"]) == (3, 2, pytest.approx(2.0))


def test_a_mean_that_was_recorded_without_its_count_is_over_all_attempts():
    task = {"attempts": 4, "kept": 3, "failures": 1, "mean_displacement_cm": 2.0}
    progress = Progress.from_record({"settings": {"suite": "libero_spatial"}, "tasks": {"5": task}, "wall_s": 1.0})
    assert progress.tasks["libero_spatial", 5].displaced == 4


def test_a_record_made_before_objects_could_be_displaced_is_continued_without(tmp_path, fake_simulator):
    collect(config(tmp_path / "ds", episodes_per_task=1))
    file = tmp_path / "ds" / "meta" / RECORD_NAME
    record = json.loads(file.read_text())
    del record["settings"]["displace_cm"]
    for task in record["tasks"].values():
        del task["mean_displacement_cm"]
    file.write_text(json.dumps(record))
    with pytest.raises(
        CollectionError, match=r"--displace_cm=8.0 differs from 0.0, .* Continue it with --displace_cm=0.0"
    ):
        collect(config(tmp_path / "ds", displace_cm=8.0))
    collect(config(tmp_path / "ds"))
    assert contents(tmp_path / "ds") != []


@pytest.mark.parametrize(
    ("override", "flag"),
    [
        ({"image_size": 16}, "--image_size=16 differs from 8"),
        ({"seed": 1}, "--seed=1 differs from 0"),
        ({"noise": 0.5}, "--noise=0.5 differs from 1.0"),
        ({"recovery_share": 0.0}, "--recovery_share=0.0 differs from 0.25"),
        ({"arm_start_rad": 0.5}, "--arm_start_rad=0.5 differs from 0.0"),
        ({"repo_id": "test/other"}, "--repo_id=test/other differs from test/collected"),
    ],
)
def test_other_settings_cannot_continue_a_dataset(tmp_path, fake_simulator, override, flag):
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=1))
    with pytest.raises(CollectionError, match=flag):
        collect(config(tmp_path / "ds", **override))


@pytest.mark.parametrize("name", [RECORD_NAME, "info.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"7", None])
def test_a_damaged_record_is_named_and_nothing_is_touched(tmp_path, fake_simulator, capsys, name, content):
    root = tmp_path / "ds"
    asked = config(root, task_ids=[2], episodes_per_task=1)
    collect(asked)
    file = root / "meta" / name
    file.unlink() if content is None else file.write_bytes(content)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(CollectionError, match=rf"--root={root} (has a damaged|exists and holds)") as refused:
        collect(replace(asked, episodes_per_task=2))
    assert "Nothing was touched" in str(refused.value)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_dataset_from_before_there_were_recoveries_has_none(tmp_path, fake_simulator):
    root = tmp_path / "ds"
    collect(config(root, task_ids=[2], episodes_per_task=1, recovery_share=0.0))
    path = root / "meta" / RECORD_NAME
    record = json.loads(path.read_text())
    del record["settings"]["recovery_share"]
    for task in record["tasks"].values():
        del task["recovery_attempts"], task["recovery_kept"]
    path.write_text(json.dumps(record))
    with pytest.raises(CollectionError, match=r"--recovery_share=0.25 differs from 0.0.*Continue it with"):
        collect(config(root, task_ids=[2]))
    collect(config(root, task_ids=[2], recovery_share=0.0))
    assert contents(root) == EXPECTED[:3]


def test_other_assets_cannot_continue_a_dataset(tmp_path, fake_simulator, monkeypatch):
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=1))
    monkeypatch.setattr(collector_module, "describe_source", lambda: SOURCE | {"assets": "official"})
    with pytest.raises(CollectionError, match=r"official assets.*stand-in ones.*ATLASVLA_LIBERO_ASSETS"):
        collect(config(tmp_path / "ds"))


@pytest.mark.parametrize(
    ("key", "recorded", "other", "message"),
    [
        (
            "look",
            "plain",
            "default",
            r"ATLASVLA_LIBERO_RENDER_QUALITY=default differs from plain, .*_QUALITY=plain, or",
        ),
        (
            "camera_shift",
            "{}",
            '{"up_cm": 5.0}',
            r"ATLASVLA_LIBERO_CAMERA_SHIFT=.*5.* differs from \{\}, .*='\{\}', or",
        ),
    ],
)
def test_other_pictures_cannot_continue_a_dataset(tmp_path, fake_simulator, monkeypatch, key, recorded, other, message):
    def source(**pictures: str) -> dict:
        return SOURCE | {"simulator": SOURCE["simulator"] | pictures}

    asked = config(tmp_path / "ds", task_ids=[2], episodes_per_task=1)
    collect(asked)  # as earlier versions recorded it: without
    monkeypatch.setattr(collector_module, "describe_source", lambda: source(**{key: recorded}))
    collect(replace(asked, episodes_per_task=2))
    collect(replace(asked, episodes_per_task=3))
    monkeypatch.setattr(collector_module, "describe_source", lambda: source(**{key: other}))
    with pytest.raises(CollectionError, match=message):
        collect(replace(asked, episodes_per_task=4))
    assert contents(tmp_path / "ds") == EXPECTED[:3]


@pytest.mark.parametrize(
    ("shift", "recorded"),
    [("", "{}"), ('{"pan_deg": 0}', "{}"), ('{"pan_deg": -10, "up_cm": 5}', '{"up_cm": 5.0, "pan_deg": -10.0}')],
)
def test_the_record_says_how_the_camera_was_shifted(monkeypatch, shift, recorded):
    monkeypatch.setattr(record_module, "describe_simulator", lambda: {"assets_path": "/secret"})
    monkeypatch.setattr(record_module, "libero_assets", lambda: SimpleNamespace(kind="stand-in"))
    monkeypatch.setenv("ATLASVLA_LIBERO_CAMERA_SHIFT", shift)
    assert describe_source()["simulator"] == {"camera_shift": recorded}
    monkeypatch.setenv("ATLASVLA_LIBERO_CAMERA_SHIFT", '{"pan": 1}')
    with pytest.raises(CollectionError, match=r"ATLASVLA_LIBERO_CAMERA_SHIFT=.* is not a camera shift"):
        describe_source()


def test_other_files_of_official_assets_are_told(tmp_path, fake_simulator, monkeypatch, caplog):
    def source(label: str) -> dict:
        return {"assets": "official", "simulator": {"mujoco": "0", "assets": label}}

    # As earlier versions recorded it.
    monkeypatch.setattr(collector_module, "describe_source", lambda: source("official"))
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=1))
    monkeypatch.setattr(collector_module, "describe_source", lambda: source("official (verified)"))
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=2))
    assert "begun with assets" not in caplog.text
    collect(config(tmp_path / "new", task_ids=[2], episodes_per_task=1))
    monkeypatch.setattr(collector_module, "describe_source", lambda: source("official (1 of 584 files differ)"))
    collect(config(tmp_path / "new", task_ids=[2], episodes_per_task=2))
    assert "begun with assets official (verified); this run has official (1 of 584 files differ)" in caplog.text
