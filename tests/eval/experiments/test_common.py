"""The functions that the recipes share: a stage that was stopped goes on, but not with other settings."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT

TRAINER = """#!/bin/bash
# Stands for lerobot-train: with DIE it leaves a checkpoint behind and fails, as if it had been killed.
echo "$*" >> calls
for flag; do case $flag in --output_dir=*) mkdir -p "${flag#*=}/checkpoints/last/pretrained_model";; esac; done
[ -z "${DIE:-}" ]
"""
MERGER = """#!/bin/bash
# Stands for lerobot-edit-dataset: like LeRobot 0.6.1, it writes the number of episodes before it copies any data.
echo merge >> calls
for flag; do case $flag in --new_root=*) root=${flag#*=};; esac; done
mkdir -p "$root/meta"
echo "{\\"total_episodes\\": $EPISODES}" > "$root/meta/info.json"
[ -z "${DIE:-}" ] || exit 1
touch "$root/data"
"""


@pytest.fixture
def recipe(tmp_path):
    """Run a line with the functions of ``common.sh``; returns the exit status and stderr."""
    (tmp_path / "bin").mkdir()
    python = f'#!/bin/bash\nexec "{sys.executable}" "$@"\n'
    for name, text in (("lerobot-train", TRAINER), ("lerobot-edit-dataset", MERGER), ("python", python)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(line, **environment):
        script = f'source "{ROOT}/eval/experiments/common.sh"; cd "{tmp_path}"; {line}'
        variables = {"BIN": str(tmp_path / "bin"), "PATH": "/usr/bin:/bin", "OUT": "out", **environment}
        done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, done.stdout

    return run


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def dataset(folder, episodes):
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps({"total_episodes": episodes}))


def test_training_that_was_stopped_goes_on_and_keeps_the_command_that_it_began_with(recipe, tmp_path):
    assert recipe("train out/run --steps=10 --job_name='a b'", DIE="1", OMP_NUM_THREADS="2")[0] == 1
    assert recipe("train out/run --steps=10 --job_name='a b'")[0] == 0
    assert calls(tmp_path)[1].endswith("train_config.json --resume=true")
    recorded = (tmp_path / "out/run/train_command.txt").read_text()
    assert recorded == "OMP_NUM_THREADS=2 lerobot-train --steps=10 --job_name=a\\ b --output_dir=out/run\n"


def test_training_is_not_resumed_with_other_flags(recipe, tmp_path):
    assert recipe("train out/run --steps=10")[0] == 0
    status, error, _ = recipe("train out/run --steps=20; echo went on >> calls")
    assert status == 1
    assert "error: out/run was begun with other flags or data than now. Remove it, or choose another OUT." in error
    assert "--steps=10" in error
    assert len(calls(tmp_path)) == 1
    assert "--steps=10" in (tmp_path / "out/run/train_command.txt").read_text()


def test_training_is_not_resumed_on_data_that_grew(recipe, tmp_path):
    dataset(tmp_path / "data", 4)
    for _ in range(2):
        assert recipe("train out/run --dataset.root=data")[0] == 0
    dataset(tmp_path / "data", 5)
    status, error, _ = recipe("train out/run --dataset.root=data")
    assert status == 1
    assert "--dataset.root=data --output_dir=out/run # 5 episodes\nOMP" in error


def test_training_of_which_nothing_is_recorded_goes_on_with_a_warning(recipe, tmp_path):
    (tmp_path / "out/run/checkpoints/last").mkdir(parents=True)
    status, error, _ = recipe("train out/run --steps=10")
    assert (status, calls(tmp_path)[0].endswith("--resume=true")) == (0, True)
    assert "warning: it is not known with which flags out/run was begun" in error
    assert not (tmp_path / "out/run/train_command.txt").exists()


def test_a_merge_that_was_stopped_is_made_again_and_a_finished_one_is_not(recipe, tmp_path):
    for name in ("a", "b"):
        dataset(tmp_path / "out" / name, 2)
    assert recipe('merge all "$OUT"/{a,b}', DIE="1", EPISODES="4")[0] == 1
    assert not (tmp_path / "out/all").exists()
    for _ in range(2):
        assert recipe('merge all "$OUT"/{a,b}', EPISODES="4")[0] == 0
        assert (tmp_path / "out/all/data").exists()
    assert len(calls(tmp_path)) == 2


def test_parts_that_grew_are_merged_again(recipe, tmp_path):
    for name in ("a", "b"):
        dataset(tmp_path / "out" / name, 2)
    assert recipe('merge all "$OUT"/{a,b}', EPISODES="4")[0] == 0
    dataset(tmp_path / "out/b", 3)
    assert recipe('merge all "$OUT"/{a,b}', EPISODES="5")[0] == 0
    assert json.loads((tmp_path / "out/all/meta/info.json").read_text()) == {"total_episodes": 5}


@pytest.mark.slow
def test_episodes_are_chosen_by_task_even_if_the_dataset_grew(recipe, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {"observation.state": {"dtype": "float32", "shape": (1,), "names": ["x"]}}
    made = LeRobotDataset.create("local/mixed", fps=10, features=features, root=tmp_path / "data", use_videos=False)
    for task in ("first", "first", "second", "second", "other", "second", "second", "first", "first"):
        made.add_frame({"observation.state": np.zeros(1, np.float32), "task": task})
        made.save_episode()
    made.finalize()
    record = {
        "tasks": {str(number): {"instruction": task} for number, task in ((3, "first"), (5, "second"), (7, "other"))}
    }
    (tmp_path / "data/meta/atlasvla_collect.json").write_text(json.dumps(record))
    status, _, told = recipe("chosen data 3,5 3 1; chosen data '3 5' 4 2; episodes=$(chosen data 9 4 2); echo went on")
    assert told.splitlines() == ["[0, 1, 2, 3, 5, 7]", "[0, 2, 5, 7]"]
    assert status == 1
