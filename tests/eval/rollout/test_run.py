"""eval.run's bookkeeping around a simulator that only pretends: order, resumption, videos, messages."""

import hashlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from eval.rollout import run
from eval.rollout import worker_pool as crew
from eval.rollout.run import main
from eval.rollout.run_folder import Rollout, read_run
from eval.rollout.settings import RunConfig, RunError
from eval.rollout.worker import Job, Outcome, Task
from lerobot_atlasvla.sim.displace import DisplacementError
from tests.conftest import CHUNK, IMAGE, WRIST, tiny_config

SIMULATOR = {"mujoco": "3", "assets": "stand-in", "assets_source": "here"}
TASKS = 3


def job_of(task_id: int, init_state: int = 0, seed: int = 0) -> Job:
    return Job(Task("libero_spatial", task_id, f"instruction {task_id}"), seed, init_state)


def outcome_of(job: Job, success: bool, video: bool = False) -> Outcome:
    rollout = Rollout(
        suite=job.task.suite,
        task_id=job.task.task_id,
        instruction=job.task.instruction,
        seed=job.seed,
        init_state=job.init_state,
        success=success,
        steps=10 + job.init_state,
        wall_s=2.0,
        video=f"videos/{job.task.task_id}-{job.seed}-{job.init_state}.mp4" if video else None,
    )
    return Outcome(rollout, np.zeros(3))


class FakePool(ThreadPoolExecutor):
    def __init__(self, max_workers, mp_context=None, initializer=None, initargs=()):
        super().__init__(max_workers)


@pytest.fixture
def simulated(monkeypatch):
    """Every odd initial state succeeds. Returns the keys simulated so far."""
    keys = []

    def run_job(job: Job) -> Outcome:
        keys.append(job.key)
        return outcome_of(job, bool(job.init_state % 2))

    def libero_tasks(suites, task_ids):
        return [Task(suite, i, f"instruction {i}") for suite in suites for i in task_ids or range(TASKS)]

    monkeypatch.setattr(crew, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(crew, "run_job", run_job)
    monkeypatch.setattr(crew, "count_parameters", lambda: 1234)
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR)
    monkeypatch.setattr(run, "libero_tasks", libero_tasks)
    return keys


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tiny_config(n_action_steps=4)._save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


BASE = ["--checkpoint=checkpoint", "--output_dir=out", "--episodes=4", "--workers=2", "--device=cpu", "--look=fast"]


def records(path="out") -> list:
    return sorted(rollout.key for rollout in read_run(path).rollouts)


# -- the whole command -------------------------------------------------------------------------------------------------


def test_a_run_does_what_was_asked_and_says_so(checkpoint, simulated, capsys):
    arguments = [*BASE, "--seeds=[5, 6]", "--task_ids=[2, 0]"]
    assert main(arguments) == 0
    expected = [("libero_spatial", task, seed, state) for task in (0, 2) for seed in (5, 6) for state in range(4)]
    assert sorted(simulated) == records() == expected
    out = capsys.readouterr().out.strip().splitlines()
    line = "4/8 = 50.0 % [21.5, 78.5], 12 steps to success (median), 2.0 s a rollout"
    assert {f"libero_spatial 0: {line}", f"libero_spatial 2: {line}"} <= {text.strip() for text in out}
    assert out[-1] == "total: 8/16 = 50.0 % [28.0, 72.0]"

    done = read_run("out")
    assert done.name == "out"
    assert done.command == (
        "python -m eval.run --checkpoint=checkpoint --output_dir=out --episodes=4 --workers=2 --device=cpu --look=fast "
        "'--seeds=[5, 6]' '--task_ids=[2, 0]'"
    )
    assert done.policy == {
        "checkpoint": "checkpoint",
        "type": "atlasvla",
        "parameters": 1234,
        "n_action_steps": 4,
        "chunk_size": CHUNK,
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "device": "cpu",
    }
    assert done.settings["cameras"] == {"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"}
    assert done.settings["task_ids"] == [0, 2]
    assert done.settings["n_action_steps"] == 4
    assert done.settings["look"] == "fast"
    assert done.simulator == SIMULATOR
    assert done.training is None


def test_pictures_have_the_size_of_the_demonstrations_unless_another_is_asked_for(checkpoint, simulated, caplog):
    assert main([*BASE, "--episodes=1"]) == 0
    assert json.loads((checkpoint.parent / "out/run.json").read_text())["settings"]["image_size"] == 32
    assert "px" not in caplog.text
    assert main([*BASE, "--episodes=1", "--image_size=64", "--output_dir=other"]) == 0
    assert "trained on pictures of 32 px and gets 64 px" in caplog.text
    file = checkpoint / "config.json"
    content = json.loads(file.read_text())
    content["input_features"]["observation.images.image"]["shape"] = [3, 24, 24]
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="choose one with --image_size"):
        run.run(config(output_dir="third"), "again")


def test_the_same_command_again_changes_nothing(checkpoint, simulated, capsys):
    assert main(BASE) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    before = {file.name: file.read_bytes() for file in (checkpoint.parent / "out").iterdir()}
    simulated.clear()
    assert main(BASE) == 0
    assert simulated == []
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert {file.name: file.read_bytes() for file in (checkpoint.parent / "out").iterdir()} == before


def test_a_run_can_grow(checkpoint, simulated):
    assert main([*BASE, "--task_ids=[1]", "--episodes=2"]) == 0
    assert main([*BASE, "--task_ids=[1, 2]", "--seeds=[1000, 7]", "--episodes=3", "--workers=1"]) == 0
    assert len(simulated) == len(set(simulated)) == 12
    settings = read_run("out").settings
    assert (settings["task_ids"], settings["seeds"], settings["episodes"]) == ([1, 2], [1000, 7], 3)
    assert main([*BASE, "--task_ids=[0]", "--episodes=1"]) == 0
    settings = read_run("out").settings
    assert (settings["task_ids"], settings["seeds"], settings["episodes"]) == ([0, 1, 2], [1000, 7], 3)
    assert main([*BASE, "--episodes=1"]) == 0
    assert read_run("out").settings["task_ids"] is None


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_finished_before_an_error_is_kept(checkpoint, simulated, monkeypatch, capsys, workers):
    real = crew.run_job

    def broken(job: Job) -> Outcome:
        if job.key[1:] == (1, 1000, 2):
            time.sleep(0.2)
            raise BrokenProcessPool("gone")
        return real(job)

    monkeypatch.setattr(crew, "run_job", broken)
    assert main([*BASE, f"--workers={workers}"]) == 1
    message = capsys.readouterr().err
    assert "worker process died" in message
    assert "run the same command again to continue" in message
    kept = records()
    assert 6 <= len(kept) < 4 * TASKS
    simulated.clear()
    monkeypatch.setattr(crew, "run_job", real)
    assert main(BASE) == 0
    assert sorted([*kept, *simulated]) == records()
    assert len(records()) == 4 * TASKS


@pytest.fixture
def as_in_a_terminal():
    """A shell that starts a command in the background has it ignore Ctrl-C, these tests included."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("as_in_a_terminal")
def test_an_interrupt_keeps_what_is_finished(checkpoint, simulated, monkeypatch, capsys, number):
    real = crew.run_job
    released = threading.Event()

    def interrupted(job: Job) -> Outcome:
        if job.key[1:] == (0, 1000, 2):
            os.kill(os.getpid(), number)
            released.wait(1)
        return real(job)

    monkeypatch.setattr(crew, "run_job", interrupted)
    before = signal.getsignal(number)
    assert main([*BASE, "--workers=1"]) == 130
    assert "interrupted. Everything finished is kept; run the same command again" in capsys.readouterr().err
    assert records() == [("libero_spatial", 0, 1000, 0), ("libero_spatial", 0, 1000, 1)]
    assert signal.getsignal(number) is before


def test_a_full_disk_keeps_what_is_finished(checkpoint, simulated, monkeypatch, capsys):
    real = os.write
    lines = []

    def full(descriptor, data):
        if data.startswith(b'{"suite"'):
            lines.append(data)
            if len(lines) == 3:
                real(descriptor, data[:40])
                raise OSError(28, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert main([*BASE, "--workers=1"]) == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert "run the same command again" in message
    assert len(records()) == 2
    assert main(BASE) == 0
    assert len(records()) == 4 * TASKS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"n_action_steps": 5}, "--n_action_steps: .* was made with 4, this command asks for 5"),
        ({"image_size": 128}, "--image_size: .* was made with 32, this command asks for 128"),
        ({"pan_deg": 10.0}, r"--pan_deg: .* was made with 0\.0, this command asks for 10\.0"),
        ({"look": "default"}, "--look: .* was made with fast, this command asks for default"),
        ({"settle_steps": 0}, "--settle_steps"),
        ({"init_states": False}, "--init_states"),
        ({"fast_render": False}, "--fast_render"),
        ({"episode_length": 5}, "--episode_length"),
        ({"threads": 2}, "--threads"),
    ],
)
def test_other_settings_cannot_continue_a_run(checkpoint, simulated, override, message):
    assert main([*BASE, "--task_ids=[0]"]) == 0
    before = (checkpoint.parent / "out/run.json").read_bytes()
    simulated.clear()
    with pytest.raises(RunError, match=message):
        run.run(config(**override), "again")
    assert simulated == []
    assert (checkpoint.parent / "out/run.json").read_bytes() == before


def config(**overrides) -> RunConfig:
    values = {"checkpoint": "checkpoint", "output_dir": "out", "device": "cpu", "look": "fast", "episodes": 4}
    values |= overrides
    return RunConfig(**(values | {name: Path(values[name]) for name in ("checkpoint", "output_dir")}))


def test_another_checkpoint_cannot_continue_a_run(checkpoint, simulated, capsys):
    assert main(BASE) == 0
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    assert main(BASE) == 1
    assert "--checkpoint=checkpoint has weights" in capsys.readouterr().err


def test_another_simulator_cannot_continue_a_run(checkpoint, simulated, monkeypatch, capsys):
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets_source": "elsewhere"})
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"mujoco": "4"})
    assert main(BASE) == 1
    assert "mujoco is 4, but the run in --output_dir=out was made with 3" in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(checkpoint, simulated, capsys):
    folder = checkpoint.parent / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert main(BASE) == 1
    assert "--output_dir=out holds something that is no run (thesis.tex)" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


def record_training_assets(checkpoint, record: dict) -> None:
    data = checkpoint.parent / "data"
    (data / "meta").mkdir(parents=True)
    (data / "meta/atlasvla_collect.json").write_text(json.dumps(record))
    training = {"steps": 1, "batch_size": 1, "seed": 0, "log_freq": 1, "policy": {}}
    training["dataset"] = {"repo_id": "local/data", "root": str(data)}
    (checkpoint / "train_config.json").write_text(json.dumps(training))


def test_other_assets_than_in_training_are_refused(checkpoint, simulated, capsys):
    record_training_assets(checkpoint, {"assets": "official"})
    assert main(BASE) == 1
    message = capsys.readouterr().err
    assert "trained on official assets, but LIBERO has stand-in ones" in message
    assert "--allow_other_assets=true" in message
    assert simulated == []
    assert main([*BASE, "--allow_other_assets=true"]) == 0


@pytest.mark.parametrize(
    ("record", "warns"),
    [
        ({"assets": "official"}, False),  # by earlier versions
        ({"assets": "official", "simulator": {"assets": "official (verified)"}}, False),
        ({"assets": "official", "simulator": {"assets": "official (4 of 584 files differ)"}}, True),
    ],
)
def test_other_official_files_than_in_training_are_told(checkpoint, simulated, monkeypatch, caplog, record, warns):
    record_training_assets(checkpoint, record)
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": "official (verified)"})
    assert main(BASE) == 0
    warning = "trained on LIBERO assets official (4 of 584 files differ), and is rolled out on official (verified)"
    assert (warning in caplog.text) is warns


@pytest.mark.parametrize(("now", "status"), [("official (verified)", 0), ("stand-in", 1)])
def test_a_run_of_an_earlier_version_is_continued_on_official_assets(checkpoint, simulated, monkeypatch, now, status):
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": "official"})
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": now})
    assert main(BASE) == status


def test_a_view_of_unclear_origin_and_an_overlay_for_others_are_refused(tmp_path, monkeypatch, simulated, capsys):
    from lerobot.policies.act.configuration_act import ACTConfig

    from tests.eval.rollout.test_checkpoint import FEATURES, save

    monkeypatch.chdir(tmp_path)
    images = {f"observation.images.{name}": FEATURES["input_features"]["observation.images.image"] for name in "ab"}
    save(tmp_path / "checkpoint", ACTConfig(**(FEATURES | {"input_features": images})))
    assert main(BASE) == 1
    assert "--cameras=" in capsys.readouterr().err
    cameras = '--cameras={"agentview_image": "a", "robot0_eye_in_hand_image": "b"}'
    assert main([*BASE, cameras, "--overlay=true"]) == 1
    assert "--overlay=true is for policies of type atlasvla; this one is of type act" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*BASE, cameras]) == 0


def test_the_environment_of_the_workers(checkpoint, simulated, monkeypatch, caplog):
    names = {"RENDER_EVERY", "RENDER_CAMERAS", "CULL", "REPEATABLE", "LOOK", "CAMERA_SHIFT", "DISPLACE_CM"}
    seen = []

    def count_parameters() -> int:
        seen.append({name: os.environ.get(f"ATLASVLA_LIBERO_{name}") for name in names})
        return 1

    monkeypatch.setattr(crew, "count_parameters", count_parameters)
    monkeypatch.delenv("ATLASVLA_LIBERO_RENDER_EVERY", raising=False)
    assert main([*BASE, "--up_cm=3", "--displace_cm=8"]) == 0
    assert main([*BASE, "--output_dir=slow", "--fast_render=false"]) == 0
    shift = {"right_cm": 0.0, "up_cm": 3.0, "forward_cm": 0.0, "pan_deg": 0.0, "tilt_deg": 0.0, "roll_deg": 0.0}
    assert json.loads(seen[0].pop("CAMERA_SHIFT")) == shift
    assert seen[0].pop("RENDER_CAMERAS") == "agentview,robot0_eye_in_hand"
    assert seen[1]["RENDER_CAMERAS"] == ""
    assert seen[0] == {"RENDER_EVERY": "4", "CULL": "1", "REPEATABLE": "1", "LOOK": "fast", "DISPLACE_CM": "8.0"}
    assert seen[1]["DISPLACE_CM"] == "0.0"
    assert (seen[1]["RENDER_EVERY"], seen[1]["CULL"]) == ("1", "0")
    assert "ATLASVLA_LIBERO_RENDER_EVERY" not in os.environ


@pytest.mark.parametrize(
    ("views", "cameras", "rendered"),
    [
        (("none",), {}, "none"),
        ((WRIST,), {"robot0_eye_in_hand_image": "wrist_image"}, "robot0_eye_in_hand"),
        ((IMAGE,), {"agentview_image": "image"}, "agentview"),
    ],
)
def test_only_cameras_that_the_policy_looks_through_are_rendered(
    checkpoint, simulated, monkeypatch, views, cameras, rendered
):
    config = tiny_config(views=views)
    config.validate_features()
    config._save_pretrained(checkpoint)
    seen = []

    def count_parameters() -> int:
        seen.append(os.environ["ATLASVLA_LIBERO_RENDER_CAMERAS"])
        return 1

    monkeypatch.setattr(crew, "count_parameters", count_parameters)
    assert main(BASE) == 0
    assert seen == [rendered]
    assert read_run("out").settings["cameras"] == cameras


def test_a_displacement_is_one_of_the_settings_of_a_run(checkpoint, simulated, capsys):
    assert main([*BASE, "--displace_cm=8"]) == 0
    assert read_run("out").settings["displace_cm"] == 8
    simulated.clear()
    assert main(BASE) == 1
    assert "--displace_cm: the run in --output_dir=out was made with 8.0, this command asks for 0.0" in (
        capsys.readouterr().err
    )
    assert simulated == []


def test_a_run_made_before_objects_could_be_displaced_is_continued_without(checkpoint, simulated, capsys):
    assert main([*BASE, "--episodes=1"]) == 0
    file = checkpoint.parent / "out/run.json"
    old = json.loads(file.read_text())
    del old["settings"]["displace_cm"]
    file.write_text(json.dumps(old))
    assert main([*BASE, "--displace_cm=8"]) == 1
    assert "was made with 0.0, this command asks for 8.0" in capsys.readouterr().err
    assert main(BASE) == 0
    assert len(records()) == 4 * TASKS


def test_a_displacement_without_valid_placement_is_told_without_a_traceback(checkpoint, simulated, monkeypatch, capsys):
    def run_job(job: Job) -> Outcome:
        raise DisplacementError("displace_cm=8 leaves no valid placement of the task.")

    monkeypatch.setattr(crew, "run_job", run_job)
    assert main([*BASE, "--displace_cm=8"]) == 1
    assert capsys.readouterr().err.endswith("eval.run: displace_cm=8 leaves no valid placement of the task.\n")


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"episodes": 0}, "--episodes=0 must be at least 1"),
        ({"episodes": 51}, "--episodes=51 is more than the 50 initial states"),
        ({"settle_steps": -1}, "--settle_steps=-1 must be at least 0"),
        ({"n_action_steps": 0}, "--n_action_steps=0 must be at least 1"),
        ({"workers": 0}, "--workers=0 must be at least 1"),
        ({"videos": -1}, "--videos=-1 must be at least 0"),
        ({"seeds": []}, r"--seeds=\[\] must name at least one"),
        ({"seeds": [1, 1]}, r"--seeds=\[1, 1\] .* none twice"),
        ({"seeds": [-1]}, r"--seeds=\[-1\] must all lie in 0 \.\. "),
        ({"suites": []}, r"--suites=\[\] must name at least one"),
        ({"task_ids": []}, r"--task_ids=\[\] must name at least one"),
        ({"look": "pretty"}, "--look=pretty is not a look; allowed: default, fast"),
        ({"pan_deg": float("nan")}, "--pan_deg=nan is not a finite number"),
        ({"displace_cm": -1.0}, r"--displace_cm=-1.0 is not a displacement; allowed: 0 \(off\) to 30 cm"),
        ({"displace_cm": float("nan")}, "--displace_cm=nan is not a displacement"),
        ({"checkpoint": "nowhere"}, "--checkpoint=nowhere is not a folder"),
        ({"device": "abacus"}, "--device=abacus cannot be used here"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(checkpoint, simulated, override, message):
    with pytest.raises(RunError, match=message):
        run.run(config(**override), "command")
    assert not (checkpoint.parent / "out").exists()
