"""atlasvla-collect: its errors, its order, its resumption, and one real (tiny) collection."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lerobot_atlasvla.data import collect as collect_module
from lerobot_atlasvla.data import store as store_module
from lerobot_atlasvla.data.collect import RECORD_NAME, CollectConfig, CollectionError, collect, main
from lerobot_atlasvla.data.demonstrate import Attempt, Displacement, Job
from lerobot_atlasvla.data.schema import IMAGE_KEY, Trajectory
from lerobot_atlasvla.sim.displace import DisplacementError
from tests.full_disk import fill_up

REPO_ID = "test/collected"
SOURCE = {"assets": "stand-in", "simulator": {"mujoco": "0"}}


# -- a fake simulator: what is tested is the bookkeeping ---------------------------------------------------------------


def fake_attempt(job: Job) -> Attempt:
    """Every third attempt fails; later attempts finish earlier."""
    time.sleep(0.02 * ((7 - job.attempt) % 4))
    steps = 2 + job.attempt % 2
    trajectory = Trajectory(
        agentview=np.full((steps, job.image_size, job.image_size, 3), job.attempt, dtype=np.uint8),
        wrist=np.zeros((steps, job.image_size, job.image_size, 3), dtype=np.uint8),
        eef_pos=np.full((steps, 3), job.task_id),
        eef_quat=np.tile([1.0, 0.0, 0.0, 0.0], (steps, 1)),
        gripper_qpos=np.zeros((steps, 2)),
        actions=np.full((steps, 7), job.attempt / 100, dtype=np.float32),
    )
    kept = None if job.attempt % 3 == 1 else trajectory
    recovery = job.recovery_share > 0 and job.attempt % 2 == 1
    return Attempt(f"name_{job.task_id}", f"instruction {job.task_id}", kept, recovery=recovery)


class FakePool(ThreadPoolExecutor):
    def __init__(self, max_workers, mp_context=None, initializer=None):
        super().__init__(max_workers)


@pytest.fixture
def fake_simulator(monkeypatch):
    monkeypatch.setattr(collect_module, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(collect_module, "run_job", fake_attempt)
    monkeypatch.setattr(collect_module, "describe_source", lambda: SOURCE)


@pytest.fixture
def no_simulator(monkeypatch):
    def started(*args, **kwargs):
        pytest.fail("a worker process was started")

    monkeypatch.setattr(collect_module, "ProcessPoolExecutor", started)


def config(root: Path, **overrides) -> CollectConfig:
    values = {"root": root, "repo_id": REPO_ID, "task_ids": [2, 5], "episodes_per_task": 3, "image_size": 8}
    return CollectConfig(**(values | {"save_every": 2} | overrides))


def contents(root: Path) -> list[tuple[str, int, int]]:
    """(instruction, attempt, length) of every episode, as LeRobot loads the dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(REPO_ID, root=root)
    rows = []
    for index in range(dataset.num_episodes):
        episode = dataset.meta.episodes[index]
        frame = dataset[episode["dataset_from_index"]]
        rows.append((frame["task"], round(float(frame["action"][0]) * 100), episode["length"]))
    assert sum(length for *_, length in rows) == len(dataset)
    return rows


EXPECTED = [
    ("instruction 2", 0, 2),
    ("instruction 2", 2, 2),
    ("instruction 2", 3, 3),
    ("instruction 5", 0, 2),
    ("instruction 5", 2, 2),
    ("instruction 5", 3, 3),
]


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


def test_a_displacement_without_valid_placement_is_told_without_a_traceback(tmp_path, fake_simulator, monkeypatch):
    def no_placement(job: Job) -> Attempt:
        raise DisplacementError("displace_cm=8 leaves no valid placement.")

    monkeypatch.setattr(collect_module, "run_job", no_placement)
    with pytest.raises(CollectionError, match="displace_cm=8 leaves no valid placement"):
        collect(config(tmp_path / "ds", displace_cm=8.0))


def test_no_more_attempts_than_needed_are_simulated(tmp_path, fake_simulator, monkeypatch):
    jobs = []
    monkeypatch.setattr(collect_module, "run_job", lambda job: (jobs.append(job), fake_attempt(job))[1])
    collect(config(tmp_path / "ds", workers=2))
    assert sorted((job.task_id, job.attempt) for job in jobs) == [(task, n) for task in (2, 5) for n in range(4)]


def test_the_same_command_again_changes_nothing(tmp_path, fake_simulator, monkeypatch):
    collect(config(tmp_path / "ds"))
    monkeypatch.setattr(collect_module, "ProcessPoolExecutor", None)  # a finished dataset needs no workers
    assert collect(config(tmp_path / "ds")).new_episodes == 0
    assert contents(tmp_path / "ds") == EXPECTED


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
        patched.setattr(store_module, "_free_bytes", lambda folder: next(space))
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


def test_a_dataset_can_grow(tmp_path, fake_simulator):
    collect(config(tmp_path / "ds", task_ids=[2]))
    collect(config(tmp_path / "ds", task_ids=[2, 5]))
    assert contents(tmp_path / "ds") == EXPECTED
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=4))
    assert contents(tmp_path / "ds") == [*EXPECTED, ("instruction 2", 5, 3)]


def test_a_task_that_keeps_failing_stops_the_run(tmp_path, fake_simulator, monkeypatch):
    def hopeless(job: Job) -> Attempt:
        return Attempt("name", "instruction", None) if job.task_id == 5 else fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", hopeless)
    with pytest.raises(CollectionError, match=r"Task 5 .* failed 4 times in a row \(--max_failures=4\)"):
        collect(config(tmp_path / "ds", max_failures=4))
    assert contents(tmp_path / "ds") == EXPECTED[:3]


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
    ("override", "flag"),
    [
        ({"image_size": 16}, "--image_size=16 differs from 8"),
        ({"seed": 1}, "--seed=1 differs from 0"),
        ({"noise": 0.5}, "--noise=0.5 differs from 1.0"),
        ({"recovery_share": 0.0}, "--recovery_share=0.0 differs from 0.25"),
        ({"repo_id": "test/other"}, "--repo_id=test/other differs from test/collected"),
    ],
)
def test_other_settings_cannot_continue_a_dataset(tmp_path, fake_simulator, override, flag):
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=1))
    with pytest.raises(CollectionError, match=flag):
        collect(config(tmp_path / "ds", **override))


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
    monkeypatch.setattr(collect_module, "describe_source", lambda: SOURCE | {"assets": "official"})
    with pytest.raises(CollectionError, match=r"official assets.*stand-in ones.*ATLASVLA_LIBERO_ASSETS"):
        collect(config(tmp_path / "ds"))


def test_other_files_of_official_assets_are_told(tmp_path, fake_simulator, monkeypatch, caplog):
    def source(label: str) -> dict:
        return {"assets": "official", "simulator": {"mujoco": "0", "assets": label}}

    # As earlier versions recorded it.
    monkeypatch.setattr(collect_module, "describe_source", lambda: source("official"))
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=1))
    monkeypatch.setattr(collect_module, "describe_source", lambda: source("official (verified)"))
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=2))
    assert "begun with assets" not in caplog.text
    collect(config(tmp_path / "new", task_ids=[2], episodes_per_task=1))
    monkeypatch.setattr(collect_module, "describe_source", lambda: source("official (1 of 584 files differ)"))
    collect(config(tmp_path / "new", task_ids=[2], episodes_per_task=2))
    assert "begun with assets official (verified); this run has official (1 of 584 files differ)" in caplog.text


# -- wrong input -------------------------------------------------------------------------------------------------------


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


# -- the real simulator ------------------------------------------------------------------------------------------------

KILLED_AT_THE_SECOND_COMMIT = """
import os, signal, sys
from lerobot_atlasvla.data import collect, store

moves = 0
def replace(source, target, real=os.replace):
    global moves
    moves += str(target).endswith("file-001.parquet")
    if moves == 2:  # the second episode's frames are in place, its metadata are not
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

if __name__ == "__main__":
    store.os.replace = replace
    sys.exit(collect.main(sys.argv[1:]))
"""


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


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, signal, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from lerobot_atlasvla.data.demonstrate import start_worker\n"
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
