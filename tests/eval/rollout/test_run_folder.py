"""Run folders: what is written is read again, and nothing that was cut short spoils what was finished."""

import json
import os
import pickle
from dataclasses import asdict, replace

import pytest

from eval.common.errors import EvalError
from eval.rollout.run_folder import Rollout, Run, open_log, read_run, write_run
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift

ROLLOUT = Rollout(
    suite="libero_spatial",
    task_id=3,
    instruction="pick up the bowl",
    seed=1000,
    init_state=7,
    success=True,
    steps=61,
    wall_s=2.4,
    video="videos/one.mp4",
    displacement_cm=(-3.25, 8.0),
)
WHOLE = {"schema_version": 1, "name": "one", "command": "", "policy": {}, "training": None, "settings": {}}
WHOLE |= {"versions": {}, "simulator": {}}
FAILURE = replace(ROLLOUT, init_state=8, success=False, video=None)


def a_run(path, **changes) -> Run:
    values = {
        "name": "one",
        "command": "python -m eval.run",
        "policy": {"type": "act"},
        "training": None,
        "settings": {"episodes": 2, "displace_cm": 8.0, "retreat_steps": 20},
        "versions": {"python": "3.12"},
        "simulator": {"assets": "official"},
        "path": path,
    }
    return Run(**(values | changes))


@pytest.fixture
def folder(tmp_path):
    write_run(a_run(tmp_path / "run"))
    return tmp_path / "run"


def test_what_is_written_is_read_again(folder):
    with open_log(folder) as log:
        log.append(ROLLOUT)
        log.append(FAILURE)
    assert read_run(folder) == a_run(folder, rollouts=(ROLLOUT, FAILURE))
    assert ROLLOUT.key == ("libero_spatial", 3, 1000, 7)
    lines = (folder / "rollouts.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["video"] == "videos/one.mp4"
    assert json.loads((folder / "run.json").read_text())["schema_version"] == 1


def test_what_older_runs_do_not_say_is_filled_in(folder):
    file = folder / "run.json"
    content = json.loads(file.read_text())
    content["settings"] = {"episodes": 2, "camera_shift": {"right_cm": 5.0}}
    file.write_text(json.dumps(content))
    line = asdict(FAILURE)
    for later in ("displacement_cm", "task_name", "undisturbed", "path_m", "jerk_m_s3", "judgment"):
        del line[later]
    (folder / "rollouts.jsonl").write_text(json.dumps(line) + "\n")
    old = read_run(folder)
    shift = asdict(CameraShift(right_cm=5.0))
    assert old.settings == {"episodes": 2, "camera_shift": shift, "displace_cm": 0.0, "retreat_steps": 0}
    assert old.rollouts == (replace(FAILURE, displacement_cm=None),)


def test_a_run_without_rollouts_is_a_run(folder):
    assert read_run(folder).rollouts == ()


@pytest.mark.parametrize("torn", ['{"suite": "libero_spa', '{"suite": "libero_spatial"}', "\0\0\0"])
def test_a_last_line_cut_short_is_dropped(folder, torn):
    file = folder / "rollouts.jsonl"
    with open_log(folder) as log:
        log.append(ROLLOUT)
    whole = file.read_text()
    file.write_text(whole + torn)
    assert read_run(folder).rollouts == (ROLLOUT,)
    with open_log(folder) as log:
        log.append(FAILURE)
    assert read_run(folder).rollouts == (ROLLOUT, FAILURE)
    assert file.read_text().startswith(whole)


def test_a_damaged_line_in_between_is_named(folder):
    with open_log(folder) as log:
        log.append(ROLLOUT)
    file = folder / "rollouts.jsonl"
    file.write_text(file.read_text() + "nonsense\n" + file.read_text())
    with pytest.raises(EvalError, match=r"rollouts\.jsonl, line 2, is not a rollout"):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success": "no"}, "success must be true or false, got 'no'"),
        ({"success": 1}, "success must be true or false, got 1"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"wall_s": "2"}, "wall_s must be a number, got '2'"),
        ({"suite": None}, "suite must be text, got None"),
        ({"displacement_cm": [1.0]}, "displacement_cm must be"),
        ({"displacement_cm": 3}, "displacement_cm must be"),
        ({"judgment": [1]}, "judgment must be"),
        ({"hint": 3}, "hint"),
    ],
)
def test_a_line_of_other_types_is_named(folder, changes, message):
    (folder / "rollouts.jsonl").write_text(json.dumps(asdict(ROLLOUT) | changes) + "\n")
    with pytest.raises(EvalError, match=rf"rollouts\.jsonl, line 1, is not a rollout: .*{message}"):
        read_run(folder)


def test_what_a_run_does_not_say_is_named_where_it_is_asked_for(folder):
    run = read_run(folder)
    assert run.settings.get("task_ids") is None
    for part, name in ((run.settings, "task_ids"), (run.policy, "weights_sha256")):
        with pytest.raises(EvalError, match=rf"run\.json is not what eval\.run writes: it does not say '{name}'"):
            part[name]
    assert pickle.loads(pickle.dumps(run)) == run


def test_run_json_is_replaced_whole_or_not_at_all(folder, monkeypatch):
    before = (folder / "run.json").read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_run(a_run(folder, name="two"))
    assert (folder / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a run folder of eval\.run: it has no run\.json"),
        ("not json", r"run\.json is not what eval\.run writes"),
        ('{"schema_version": 2}', "schema version 2; this is version 1"),
        ('{"schema_version": 1, "name": "x"}', r"run\.json is not what eval\.run writes"),
        ("[]", r"run\.json is not what eval\.run writes"),
        ("[" * 100_000, r"run\.json is not what eval\.run writes: RecursionError"),
        (b"\xff\xfe\x00", r"run\.json is not what eval\.run writes: UnicodeDecodeError"),
        (json.dumps(WHOLE | {"settings": []}), r"run\.json is not what eval\.run writes: TypeError"),
        (json.dumps(WHOLE | {"policy": "act"}), r"policy must be a mapping .*, got 'act'"),
        (json.dumps(WHOLE | {"name": None}), r"name must be text, got None"),
    ],
)
def test_other_folders_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvalError, match=message):
        read_run(tmp_path)
