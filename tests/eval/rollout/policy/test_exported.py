"""An export as eval.run sees it: what it learns of the folder, and LeRobot's evaluator driven by onnxruntime."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from lerobot.envs.configs import PushtEnv
from lerobot.envs.factory import make_env_pre_post_processors
from lerobot.policies import make_pre_post_processors
from lerobot.scripts.lerobot_eval import eval_policy

from eval.common.errors import EvalError
from eval.rollout.policy.checkpoint import open_policy, read_checkpoint
from eval.rollout.policy.exported import ExportedRolloutPolicy
from eval.rollout.run import main
from eval.rollout.run_folder import read_run
from lerobot_atlasvla.export.exported_policy import ExportedPolicy
from lerobot_atlasvla.utils import extras
from tests.conftest import CHUNK, IMAGE, STATE_DIM, WRIST
from tests.eval.rollout.simulated_run import BASE, TASKS, config
from tests.export.conftest import CAMERAS, INSTRUCTIONS, two_cameras

__all__ = ["two_cameras"]
STEPS = 6


@pytest.fixture
def folder(checkpoint):
    """As atlasvla-export leaves it, as far as eval.run looks at it before its workers."""
    (checkpoint / "model.safetensors").rename(checkpoint / "model.onnx")
    cameras = {IMAGE: [48, 48], WRIST: [48, 48]}
    about = {"parameters": 7, "cameras": cameras, "instructions": [f"instruction {i}" for i in range(TASKS)]}
    (checkpoint / "export.json").write_text(json.dumps(about))
    return checkpoint


def test_a_run_says_that_its_policy_is_an_export(folder, simulated):
    assert main([*BASE, "--episodes=1"]) == 0
    run = read_run("out")
    assert run.policy["type"] == "atlasvla (onnx)"
    assert (run.policy["n_action_steps"], run.policy["chunk_size"]) == (4, CHUNK)


def test_an_export_runs_on_the_cpu_without_attention_and_with_its_extra(folder, monkeypatch):
    monkeypatch.setattr("eval.rollout.policy.checkpoint.choose_device", lambda asked: asked)
    with pytest.raises(EvalError, match=r"is an export, which runs on the CPU \(--device=cpu\)"):
        open_policy(config(device="cuda"))
    with pytest.raises(EvalError, match=r"--overlay=true is for policies of type atlasvla; this one .* \(onnx\)"):
        open_policy(config(overlay=True))
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EvalError, match=r"needs onnxruntime, which is not installed.*\[export\]"):
        open_policy(config())


def test_an_export_does_not_average_its_chunks(folder):
    with pytest.raises(
        EvalError, match=r"--temporal_ensemble_coeff=0\.01 cannot be set: --checkpoint=checkpoint is an"
    ):
        open_policy(config(n_action_steps=1, temporal_ensemble_coeff=0.01))


def test_an_export_is_told_what_it_knows(folder, simulated, capsys):
    about = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(about | {"instructions": ["instruction 0"]}))
    assert main([*BASE, "--episodes=1"]) == 1
    assert "The export knows 1 instructions" in (message := capsys.readouterr().err)
    assert "'instruction 1' is not among them" in message
    assert simulated == []


def test_an_export_gets_images_of_its_own_size(folder):
    """Another one than in training, 32."""
    assert open_policy(config()).image_size == open_policy(config(image_size=48)).image_size == 48
    with pytest.raises(EvalError, match=r"--image_size=32 cannot be set: the export takes images of 48 px"):
        open_policy(config(image_size=32))
    (folder / "export.json").write_text(json.dumps({"cameras": {IMAGE: [40, 60], WRIST: [32, 32]}}))
    with pytest.raises(EvalError, match=r"cameras have the sizes .*\[40, 60\].*; export the policy again with other"):
        open_policy(config())


class Environment(gym.Env):
    """Shows noise, and writes down what it is told to do."""

    observation_space = gym.spaces.Dict(
        {
            "pixels": gym.spaces.Dict(
                {key.rpartition(".")[2]: gym.spaces.Box(0, 255, (*size, 3), np.uint8) for key, size in CAMERAS.items()}
            ),
            "agent_pos": gym.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float64),
        }
    )
    action_space = gym.spaces.Box(-10, 10, (7,), np.float32)
    _max_episode_steps = STEPS
    task_description = task = INSTRUCTIONS[1]

    def __init__(self):
        self.actions: list[np.ndarray] = []

    def _observation(self) -> dict:
        random = np.random.default_rng(len(self.actions))
        images = {
            name: random.integers(0, 256, box.shape, np.uint8) for name, box in self.observation_space["pixels"].items()
        }
        return {"pixels": images, "agent_pos": random.normal(size=STATE_DIM)}

    def reset(self, **_):
        return self._observation(), {}

    def step(self, action):
        self.actions.append(action.copy())
        return self._observation(), 0.0, False, False, {"is_success": False}


def actions_of(policy, before, after) -> np.ndarray:
    """Roll a policy out by LeRobot's evaluator."""
    environment = Environment()
    vector = gym.vector.SyncVectorEnv([lambda: environment])
    steps = make_env_pre_post_processors(PushtEnv(), policy.config)
    with torch.no_grad():
        eval_policy(vector, policy, *steps, before, after, n_episodes=1, start_seed=0)
    return np.stack(environment.actions)


def test_lerobots_evaluator_executes_the_same_actions(two_cameras):
    found = read_checkpoint(two_cameras.folder, "cpu", None)
    assert found.is_export
    exported = ExportedRolloutPolicy(found.folder, found.config)
    assert exported.exported_parameters == two_cameras.about["parameters"]
    unchanged = [lambda value: value] * 2
    actions = actions_of(exported, *unchanged)
    assert actions.shape == (STEPS, 7)
    settings = read_checkpoint(two_cameras.checkpoint, "cpu", None).config
    pipelines = make_pre_post_processors(settings, str(two_cameras.checkpoint))
    settings.pretrained_path = two_cameras.checkpoint
    from lerobot_atlasvla import AtlasVLAPolicy

    policy = AtlasVLAPolicy.from_pretrained(two_cameras.checkpoint, config=settings)
    np.testing.assert_allclose(actions, actions_of(policy, *pipelines), rtol=0, atol=1e-5)
    # With other numbers of executed actions, it looks at other steps.
    found.config.n_action_steps = 1
    often = actions_of(ExportedRolloutPolicy(found.folder, found.config), *unchanged)
    np.testing.assert_array_equal(often[0], actions[0])
    assert np.abs(often[1] - actions[1]).max() > 1e-3


def test_a_damaged_export_is_named(two_cameras, tmp_path):
    copy = shutil.copytree(two_cameras.folder, tmp_path / "copy")
    (copy / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="holds no usable export"):
        ExportedPolicy(copy)
