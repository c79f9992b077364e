"""eval.run's flags, and what is refused before a checkpoint is read."""

from pathlib import Path

import pytest

from eval.common.errors import EvalError
from eval.rollout import run
from eval.rollout.settings import RunConfig
from tests.eval.rollout.simulated_run import config


def test_more_episodes_than_fixed_states_from_random_placements():
    RunConfig(
        checkpoint=Path("a"), output_dir=Path("b"), render_quality="fast", episodes=51, init_states=False
    ).validate()


@pytest.mark.parametrize(
    "override",
    [
        {"seeds": [40, 0, 20], "episodes": 20, "init_states": False},
        {"seeds": [0, 1], "episodes": 20},
        {"settle_steps": 10, "episode_length": 990},
        {"settle_steps": 720},
    ],
)
def test_what_is_just_allowed(override):
    config(**override).validate()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"episodes": 0}, "--episodes=0 must be at least 1"),
        ({"episodes": 51}, "--episodes=51 is more than the 50 initial states"),
        ({"settle_steps": -1}, "--settle_steps=-1 must be at least 0"),
        ({"n_action_steps": 0}, "--n_action_steps=0 must be at least 1"),
        ({"workers": 0}, "--workers=0 must be at least 1"),
        ({"workers": 10**6}, "--workers=1000000 must be at most 512"),
        ({"image_size": 10**5}, "--image_size=100000 must be at most 2048"),
        ({"video_size": 0}, "--video_size=0 must be at least 1"),
        ({"videos": -1}, "--videos=-1 must be at least 0"),
        ({"seeds": []}, r"--seeds=\[\] must name at least one"),
        ({"seeds": [1, 1]}, r"--seeds=\[1, 1\] .* none twice"),
        ({"seeds": [-1]}, r"--seeds=\[-1\] must all lie in 0 \.\. "),
        (
            {"seeds": [20, 0, 39], "episodes": 20, "init_states": False},
            r"--seeds=\[20, 0, 39\] with --episodes=20 repeat random placements .* --seeds at least 20 apart",
        ),
        ({"suites": []}, r"--suites=\[\] must name at least one"),
        ({"task_ids": []}, r"--task_ids=\[\] must name at least one"),
        (
            {"settle_steps": 10, "episode_length": 991},
            "--settle_steps=10 and --episode_length=991 are 1001 steps together, .* after 1000",
        ),
        (
            {"suites": ["libero_spatial", "libero_goal"], "settle_steps": 701},
            r"--settle_steps=701 and --episode_length=300 \(LeRobot's limit\) are 1001 steps together",
        ),
        ({"render_quality": "pretty"}, "--render_quality=pretty is not a render quality; allowed: default, fast"),
        ({"pan_deg": float("nan")}, "--pan_deg=nan is not a finite number"),
        ({"displace_cm": -1.0}, r"--displace_cm=-1.0 is not a displacement; allowed: 0 \(off\) to 30 cm"),
        ({"displace_cm": float("nan")}, "--displace_cm=nan is not a displacement"),
        ({"checkpoint": "nowhere"}, "--checkpoint=nowhere is not a folder"),
        ({"device": "abacus"}, "--device=abacus cannot be used here"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(checkpoint, simulated, override, message):
    with pytest.raises(EvalError, match=message):
        run.run(config(**override), "command")
    assert not (checkpoint.parent / "out").exists()
