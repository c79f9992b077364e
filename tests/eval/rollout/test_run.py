"""eval.run as a command: what it does, prints and keeps when it is stopped, around a simulator that only pretends."""

import hashlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from eval.common.errors import EvalError
from eval.rollout import run
from eval.rollout.run import main
from eval.rollout.run_folder import read_run
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker import FinishedRollout, RolloutJob
from tests.conftest import CHUNK
from tests.eval.rollout.simulated_run import BASE, SIMULATOR, TASKS, FakePool, config, records
from tests.helpers.forked import Forked, hold


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
        "python -m eval.run --checkpoint=checkpoint --output_dir=out --episodes=4 --workers=2 --device=cpu "
        "--render_quality=fast '--seeds=[5, 6]' '--task_ids=[2, 0]'"
    )
    assert len(done.policy.pop("settings_sha256")) == 64
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


def test_images_have_the_size_of_the_demonstrations_unless_another_is_asked_for(checkpoint, simulated, caplog):
    assert main([*BASE, "--episodes=1"]) == 0
    assert json.loads((checkpoint.parent / "out/run.json").read_text())["settings"]["image_size"] == 32
    assert "px" not in caplog.text
    assert main([*BASE, "--episodes=1", "--image_size=64", "--output_dir=other"]) == 0
    assert "trained on images of 32 px and gets 64 px" in caplog.text
    file = checkpoint / "config.json"
    content = json.loads(file.read_text())
    content["input_features"]["observation.images.image"]["shape"] = [3, 24, 24]
    file.write_text(json.dumps(content))
    with pytest.raises(EvalError, match="choose one with --image_size"):
        run.run(config(output_dir="third"), "again")


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_finished_before_an_error_is_kept(checkpoint, simulated, monkeypatch, capsys, workers):
    real = worker_pool.run_job

    def broken(job: RolloutJob) -> FinishedRollout:
        if job.key[1:] == (1, 1000, 2):
            # Whatever the order of the threads: the rollouts that come before this one are in the log.
            while Path("out/rollouts.jsonl").read_bytes().count(b"\n") < 6:
                time.sleep(0.01)
            raise BrokenProcessPool("gone")
        return real(job)

    monkeypatch.setattr(worker_pool, "run_job", broken)
    assert main([*BASE, f"--workers={workers}"]) == 1
    message = capsys.readouterr().err
    assert "worker process died" in message
    assert "run the same command again to continue" in message
    kept = records()
    assert 6 <= len(kept) < 4 * TASKS
    simulated.clear()
    monkeypatch.setattr(worker_pool, "run_job", real)
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
    real = worker_pool.run_job
    released = threading.Event()

    def interrupted(job: RolloutJob) -> FinishedRollout:
        if job.key[1:] == (0, 1000, 2):
            # A signal that arrives just before Python's main thread falls asleep wakes nobody; the next one does.
            signal.pthread_kill(threading.main_thread().ident, number)
            while not released.wait(0.2):
                signal.pthread_kill(threading.main_thread().ident, number)
        return real(job)

    def shutdown(pool, **options):
        """The run has noticed: the rollout it gave up may end."""
        released.set()
        ThreadPoolExecutor.shutdown(pool, **options)

    monkeypatch.setattr(worker_pool, "run_job", interrupted)
    monkeypatch.setattr(FakePool, "shutdown", shutdown)
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


def test_a_second_run_of_one_folder_is_refused_before_it_changes_anything(checkpoint, simulated, capsys):
    """Not even ``run.json``, which it would let grow."""
    assert main([*BASE, "--episodes=1"]) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    with Forked(hold, Path("out")) as first:
        assert first.told() == "held"
        assert main([*BASE, "--seeds=[1, 2]"]) == 1
        assert capsys.readouterr().err.endswith(
            "Another process is writing to --output_dir=out; wait for it, stop it, or choose another folder.\n"
        )
        assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert main([*BASE, "--seeds=[1, 2]", "--episodes=1"]) == 0
    assert len(records()) == 3 * TASKS


def test_a_run_that_can_not_begin_leaves_no_folder(checkpoint, simulated, capsys):
    (checkpoint / "model.safetensors").unlink()
    assert main([*BASE, "--output_dir=new/out"]) == 1
    assert not Path("new").exists()
