"""The commands of examples/own_robot.md and examples/robot_loop.py, on a dataset and an arm as they are there."""

import json
import re
import shlex

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts.lerobot_record import RecordConfig

from tests.helpers import ROOT
from tests.helpers.commands import succeed
from tests.helpers.six_joint_arm import CAMERAS, FPS, JOINTS, record

GUIDE = ROOT / "examples/own_robot.md"
ARM = ["--robot.discover_packages_path=tests.helpers.six_joint_arm", "--robot.type=six_joint_arm"]


def commands(program: str) -> list[list[str]]:
    """Every command of the guide that starts a program, as a shell splits it."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    found = [shlex.split(block.replace("\\\n", " ")) for block in blocks]
    return [words[1:] for words in found if words[0] == program]


def without(words: list[str], *prefixes: str) -> list[str]:
    return [word for word in words if not word.startswith(prefixes)]


def test_the_recording_parses_and_has_two_cameras():
    (words,) = commands("lerobot-record")
    cfg = draccus.parse(RecordConfig, args=words)
    assert cfg.dataset.video
    assert sorted(cfg.robot.cameras) == ["front", "wrist"]
    assert not cfg.dataset.push_to_hub


@pytest.mark.parametrize("number", [0, 1])
def test_the_trainings_parse_and_normalize_joints(number):
    words = commands("lerobot-train")[number]
    settings = dict(word.split("=", 1) for word in words)
    preset = settings["--config_path"]
    # LeRobot reads a policy's values as JSON, draccus on its own as YAML.
    assert json.loads(settings["--policy.normalization_mapping"])
    args = [*without(words, "--config_path="), "--policy.device=cpu"]
    cfg = draccus.parse(TrainPipelineConfig, ROOT / preset, args=args)
    assert {key: mode.value for key, mode in cfg.policy.normalization_mapping.items()} == {
        "VISUAL": "IDENTITY",
        "STATE": "MEAN_STD",
        "ACTION": "MEAN_STD",
    }
    assert (cfg.policy.chunk_size, cfg.policy.n_action_steps) == (FPS, FPS // 2)


@pytest.mark.slow
def test_from_a_recording_to_the_arm(tmp_path):
    """Train as in the guide (two steps, smaller), then roll out, with LeRobot's command and with the plain loop."""
    (recorded,) = commands("lerobot-record")
    settings = dict(word.split("=", 1) for word in recorded)
    task, repo_id = settings["--dataset.single_task"], settings["--dataset.repo_id"]
    root = tmp_path / settings["--dataset.root"]
    record(root, repo_id, episodes=2, frames=40, task=task)
    dataset = LeRobotDataset(repo_id, root=root)
    assert dataset.meta.video_keys == [f"observation.images.{name}" for name in CAMERAS]
    assert dataset.meta.features["action"]["shape"] == (len(JOINTS),)

    train = commands("lerobot-train")[1]
    assert "--config_path=configs/policy/atlasvla_tiny.yaml" in train
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    smaller = [
        "--steps=2",
        "--policy.image_size=[16,16]",
        "--batch_size=4",
        "--num_workers=0",
        "--policy.device=cpu",
        "--policy.decoder_hidden_size=32",
    ]
    log = succeed("lerobot-train", *without(train, "--steps="), *smaller, cwd=tmp_path)
    assert "End of training" in log

    trained = next(word.partition("=")[2] for word in train if word.startswith("--output_dir="))
    fewer = [
        f"--policy.path={trained}/checkpoints/last/pretrained_model",
        "--policy.push_to_hub=false",
        f"--policy.views=[observation.images.{min(CAMERAS)}]",
        "--output_dir=tuned",
        "--env_eval_freq=0",
    ]
    data = [word for word in train if word.startswith("--dataset.")]
    log = succeed("lerobot-train", *fewer, *data, "--steps=1", "--batch_size=4", "--num_workers=0", cwd=tmp_path)
    assert "End of training" in log

    (rollout,) = commands("lerobot-rollout")
    (checkpoint,) = (word.partition("=")[2] for word in rollout if word.startswith("--policy.path="))
    config = json.loads((tmp_path / checkpoint / "config.json").read_text())
    assert [
        key for key, feature in config["input_features"].items() if feature["type"] == "VISUAL"
    ] == dataset.meta.video_keys
    log_file = tmp_path / "rollout.json"
    words = [*without(rollout, "--robot.", "--duration="), *ARM, f"--robot.log={log_file}", "--duration=1"]
    words += ["--play_sounds=false", "--return_to_initial_position=false"]
    succeed("lerobot-rollout", *words, cwd=tmp_path)
    assert json.loads(log_file.read_text())

    loop_file = tmp_path / "loop.json"
    loop = [
        f"--checkpoint={checkpoint}",
        f"--task={task}",
        f"--fps={FPS}",
        "--duration=0.2",
        "--robot.type=six_joint_arm",
    ]
    script = tmp_path / "loop.py"
    script.write_text(f"""
import runpy, tests.helpers.six_joint_arm
runpy.run_path("{ROOT / "examples/robot_loop.py"}", run_name="__main__")
""")
    succeed(str(script), *loop, f"--robot.log={loop_file}", cwd=tmp_path)
    received = json.loads(loop_file.read_text())
    assert len(received) == round(0.2 * FPS)
    assert list(received[0]) == [f"{joint}.pos" for joint in JOINTS]
