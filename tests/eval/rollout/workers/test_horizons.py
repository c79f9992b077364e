"""A rollout of ``eval.run`` may last as long as LeRobot lets it, in every suite; no simulator is built."""

from pathlib import Path

import pytest

from eval.rollout.workers.scene import Scene
from eval.rollout.workers.worker import Evaluator, WorkerSettings
from lerobot_atlasvla.libero.setup import prepare_libero


@pytest.mark.parametrize(
    ("suite", "steps"),
    [("libero_spatial", 280), ("libero_object", 280), ("libero_goal", 300), ("libero_10", 520)],
)
@pytest.mark.parametrize("asked", [None, 50])
def test_a_rollout_lasts_as_long_as_the_suite_allows(tmp_path: Path, suite, steps, asked):
    prepare_libero()
    from lerobot.envs.factory import make_env

    evaluator = Evaluator.__new__(Evaluator)  # without its policy
    evaluator._settings = WorkerSettings(
        checkpoint=tmp_path,
        device="cpu",
        overrides={},
        output_dir=tmp_path,
        cameras={"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"},
        settle_steps=10,
        init_states=True,
        image_size=8,
        video_size=8,
        episode_length=asked,
        threads=1,
        overlay=False,
    )
    vector = make_env(evaluator._env_config(Scene(suite, 3)), n_envs=1)[suite][3]
    env = vector.envs[0].unwrapped
    assert env._max_episode_steps == (asked or steps)
    assert len(env._init_states) == 50
    assert env._env is None  # no simulator was built for this
