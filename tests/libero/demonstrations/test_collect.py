"""``atlasvla-collect``: what is simulated, what is said, and what is refused."""

import pytest

from lerobot_atlasvla.libero.demonstrations import collect as collect_module
from lerobot_atlasvla.libero.demonstrations import collector as collector_module
from lerobot_atlasvla.libero.demonstrations.collect import CollectConfig, CollectionError, collect, main
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, Job
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from tests.libero.demonstrations.fake_simulator import EXPECTED, REPO_ID, config, contents, fake_attempt


def test_no_more_attempts_than_needed_are_simulated(tmp_path, fake_simulator, monkeypatch):
    jobs = []
    monkeypatch.setattr(collect_module, "run_job", lambda job: (jobs.append(job), fake_attempt(job))[1])
    collect(config(tmp_path / "ds", workers=2))
    assert sorted((job.task_id, job.attempt) for job in jobs) == [(task, n) for task in (2, 5) for n in range(4)]


def test_a_dataset_can_grow(tmp_path, fake_simulator):
    collect(config(tmp_path / "ds", task_ids=[2]))
    collect(config(tmp_path / "ds", task_ids=[2, 5]))
    assert contents(tmp_path / "ds") == EXPECTED
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=4))
    assert contents(tmp_path / "ds") == [*EXPECTED, ("instruction 2", 5, 3)]


def test_the_same_command_again_changes_nothing(tmp_path, fake_simulator, monkeypatch):
    collect(config(tmp_path / "ds"))
    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", None)  # a finished dataset needs no workers
    assert collect(config(tmp_path / "ds")).new_episodes == 0
    assert contents(tmp_path / "ds") == EXPECTED


def test_a_task_that_keeps_failing_stops_the_run(tmp_path, fake_simulator, monkeypatch):
    def hopeless(job: Job) -> Attempt:
        return Attempt("name", "instruction", None) if job.task_id == 5 else fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", hopeless)
    with pytest.raises(CollectionError, match=r"Task 5 .* failed 4 times in a row \(--max_failures=4\)"):
        collect(config(tmp_path / "ds", max_failures=4))
    assert contents(tmp_path / "ds") == EXPECTED[:3]


def test_a_displacement_without_valid_placement_is_told_without_a_traceback(tmp_path, fake_simulator, monkeypatch):
    def no_placement(job: Job) -> Attempt:
        raise DisplacementError("displace_cm=8 leaves no valid placement.")

    monkeypatch.setattr(collect_module, "run_job", no_placement)
    with pytest.raises(CollectionError, match="displace_cm=8 leaves no valid placement"):
        collect(config(tmp_path / "ds", displace_cm=8.0))


def test_summary_names_the_numbers(tmp_path, fake_simulator, capsys):
    root = tmp_path / "ds"
    args = [f"--root={root}", f"--repo_id={REPO_ID}", "--task_ids=[2]", "--episodes_per_task=3", "--image_size=8"]
    assert main(args) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if "instruction 2" in line)
    assert row[:4] == ["2", "4", "3", "75%"]
    assert "starting from a mishap: 2 attempts, 1 kept" in out
    assert "new episodes: 3" in out
    assert str(root) in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"suite": "libero_goal"}, r"--suite=libero_goal .* allowed: libero_spatial"),
        ({"task_ids": [3, 10]}, r"--task_ids=\[3, 10\] .* 0 to 9 .* 10\."),
        ({"task_ids": [-1]}, r"--task_ids=\[-1\] .* 0 to 9"),
        ({"task_ids": []}, r"--task_ids=\[\] .* 0 to 9"),
        ({"image_size": 0}, "--image_size=0 must be at least 1"),
        ({"episodes_per_task": 0}, "--episodes_per_task=0 must be at least 1"),
        ({"workers": 0}, "--workers=0 must be at least 1"),
        ({"noise": -0.1}, "--noise=-0.1 must be at least 0"),
        ({"noise": float("nan")}, "--noise=nan must be at least 0"),
        ({"recovery_share": -0.1}, r"--recovery_share=-0.1 must be from 0 to 1\."),
        ({"recovery_share": 1.5}, r"--recovery_share=1.5 must be from 0 to 1\."),
        ({"recovery_share": float("nan")}, r"--recovery_share=nan must be from 0 to 1\."),
        ({"seed": -1}, "--seed=-1 must be at least 0"),
        ({"save_every": 0}, "--save_every=0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, no_simulator, override, message):
    with pytest.raises(CollectionError, match=message):
        collect(config(tmp_path / "ds", **override))
    assert not (tmp_path / "ds").exists()


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, no_simulator, capsys):
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "thesis.tex").write_text("precious")
    assert main([f"--root={tmp_path / 'ds'}"]) == 1
    message = capsys.readouterr().err
    assert f"--root={tmp_path / 'ds'}" in message
    assert "no dataset" in message
    assert [p.name for p in (tmp_path / "ds").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "`root`"),
        (["--root=ds", "--image_size=big"], "`image_size`: Couldn't parse 'big'"),
        (["--root=ds", "--task_ids=3"], "`task_ids`"),
    ],
)
def test_unreadable_flags_are_named_without_a_traceback(no_simulator, capsys, args, message):
    assert main(args) == 2
    assert message in capsys.readouterr().err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The data do not depend on it" in text
    for name in CollectConfig.__dataclass_fields__:
        assert f"--{name} " in text
