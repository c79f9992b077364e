"""``atlasvla-collect``: interrupted, out of disk space, or killed, and continued; one real (tiny) collection."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lerobot_atlasvla.libero.dataset_settings import CollectionError
from lerobot_atlasvla.libero.demonstrations import collect as collect_module
from lerobot_atlasvla.libero.demonstrations import dataset_writer as writer_module
from lerobot_atlasvla.libero.demonstrations.collect import collect, main
from lerobot_atlasvla.libero.demonstrations.collect_record import RECORD_NAME
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, Job
from lerobot_atlasvla.libero.demonstrations.schema import IMAGE_KEY
from tests.helpers.full_disk import fill_up
from tests.libero.demonstrations.fake_simulator import EXPECTED, REPO_ID, config, contents, fake_attempt


def test_an_interrupted_run_continues_where_it_stopped(tmp_path, fake_simulator, monkeypatch):
    def interrupted(job: Job) -> Attempt:
        if (job.task_id, job.attempt) == (5, 2):
            raise RuntimeError("the simulator broke")
        return fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", interrupted)
    with pytest.raises(RuntimeError, match="the simulator broke"):
        collect(config(tmp_path / "ds"))
    assert contents(tmp_path / "ds") == EXPECTED[:4]  # everything finished was kept
    monkeypatch.setattr(collect_module, "run_job", fake_attempt)
    assert collect(config(tmp_path / "ds")).new_episodes == 2
    assert contents(tmp_path / "ds") == EXPECTED


def test_a_full_disk_is_foreseen(tmp_path, fake_simulator, monkeypatch, capsys):
    space = iter([10**9, 100])
    flags = [f"--root={tmp_path / 'ds'}", f"--repo_id={REPO_ID}", "--task_ids=[2, 5]", "--episodes_per_task=3"]
    flags += ["--image_size=8", "--save_every=2"]
    with monkeypatch.context() as patched:
        patched.setattr(writer_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(space)))
        assert main(flags) == 1
    message = capsys.readouterr().err
    assert "The disk is full: the next 2 episodes" in message
    assert f"--root={tmp_path / 'ds'} is complete up to here; free some space" in message
    assert contents(tmp_path / "ds") == EXPECTED[:2]
    assert main(flags) == 0
    assert contents(tmp_path / "ds") == EXPECTED


def test_a_disk_that_fills_up_while_writing_leaves_the_dataset_whole(tmp_path, fake_simulator, monkeypatch):
    with monkeypatch.context() as patched:
        fill_up(patched)
        with pytest.raises(CollectionError, match=r"No space left on device.*complete up to here"):
            collect(config(tmp_path / "ds"))
    assert contents(tmp_path / "ds") == EXPECTED[:2]
    assert collect(config(tmp_path / "ds")).new_episodes == 4
    assert contents(tmp_path / "ds") == EXPECTED


KILLED_AT_THE_SECOND_COMMIT = """
import os, signal, sys
from lerobot_atlasvla.libero.demonstrations import collect, dataset_writer

moves = 0
def replace(source, target, real=os.replace):
    global moves
    moves += str(target).endswith("file-001.parquet")
    if moves == 2:  # the second episode's frames are in place, its metadata are not
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

if __name__ == "__main__":
    dataset_writer.os.replace = replace
    sys.exit(collect.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_collection_loads_and_continues(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path / "ds"
    script = tmp_path / "killed.py"
    script.write_text(KILLED_AT_THE_SECOND_COMMIT)
    args = [
        f"--root={root}",
        f"--repo_id={REPO_ID}",
        "--task_ids=[8]",
        "--episodes_per_task=2",
        "--image_size=32",
        "--save_every=1",
        "--noise=0",
        "--recovery_share=0",
        "--workers=1",
    ]
    killed = subprocess.run([sys.executable, script, *args], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert LeRobotDataset(REPO_ID, root=root).num_episodes == 1

    # What was simulated before the kill is not simulated again: the episode was complete, only its move was not.
    assert main(args) == 0
    dataset = LeRobotDataset(REPO_ID, root=root)
    assert dataset.num_episodes == 2
    assert len(list((root / "data").rglob("*.parquet"))) == 2
    record = json.loads((root / "meta" / RECORD_NAME).read_text())
    assert record["tasks"]["8"]["kept"] == 2
    assert record["settings"]["noise"] == 0
    assert dataset[0]["task"] == "pick up the black bowl next to the plate and place it on the plate"
    assert dataset[0][IMAGE_KEY].shape == (3, 32, 32)

    actions = np.stack([dataset[i]["action"] for i in range(len(dataset))])
    assert np.abs(actions).max() <= 1
    for index in range(2):
        rows = dataset.meta.episodes[index]
        gripper = actions[rows["dataset_from_index"] : rows["dataset_to_index"], 6]
        # Open while reaching, closed while carrying, open again: the release is in the data.
        assert [int(g) for g, before in zip(gripper, [0, *gripper], strict=False) if g != before] == [-1, 1, -1]


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from lerobot_atlasvla.libero.demonstrations.episode import start_worker\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout)
    for _ in range(3000):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the worker outlived its parent")
