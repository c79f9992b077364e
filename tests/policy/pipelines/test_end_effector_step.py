"""The end effector's pose, from a state in one piece or in parts, of a batch or of one observation."""

import pytest
import torch

from lerobot_atlasvla.policy.pipelines.end_effector_step import END_EFFECTOR, EndEffectorStep
from tests.conftest import STATE

ARM, GRIPPER = f"{STATE}.arm", f"{STATE}.gripper"
POSE = torch.arange(6.0)


@pytest.mark.parametrize(
    "state",
    [
        {STATE: torch.arange(8.0)[None]},
        {ARM: torch.arange(7.0)},
        {ARM: torch.arange(7.0), GRIPPER: torch.tensor([7.0, 8.0])},
        {ARM: torch.arange(7.0), GRIPPER: torch.tensor(7.0)},
        {ARM: torch.arange(7.0)[None], GRIPPER: torch.tensor([7])},
    ],
)
def test_one_observation_whose_parts_have_no_axis_of_samples(state):
    step = EndEffectorStep(list(state))
    seen = step.observation(state | {"observation.language.tokens": torch.zeros(1, 5, dtype=torch.long)})
    assert torch.equal(seen[END_EFFECTOR], POSE[None])


def test_a_batch_in_parts():
    state = {ARM: torch.arange(21.0).reshape(3, 7), GRIPPER: torch.arange(3)}
    seen = EndEffectorStep(list(state)).observation(state | {"observation.language.tokens": torch.zeros(3, 5)})
    assert torch.equal(seen[END_EFFECTOR], state[ARM][:, :6])


def test_a_state_that_lacks_a_part_is_left_to_the_policy():
    state = {ARM: torch.zeros(1, 7)}
    assert EndEffectorStep([ARM, GRIPPER]).observation(state) == state
