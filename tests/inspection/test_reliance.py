"""Reliance finds what a trained policy uses: the image, or the state, and nothing where there is nothing to find."""

from functools import cache

import pytest
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.inspection import reliance
from lerobot_atlasvla.inspection.reliance import measure
from tests.conftest import IMAGE, PIXELS, STATE, TASK, WRIST, dataset_stats, raw_batch, tiny_config
from tests.helpers.landmark_policies import landmark_policy
from tests.helpers.small_checkpoints import SMALL_ACT

CHUNK, ACTIONS, STATES = 2, 3, 4
IDENTITY = dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
FEATURES = {
    "input_features": {
        IMAGE: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)),
        STATE: PolicyFeature(FeatureType.STATE, (STATES,)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
    "normalization_mapping": IDENTITY,
}
# The first two actions are uniform in [-1, 1], the third never changes.
STD = torch.tensor([3**-0.5, 3**-0.5, 0.0])
USED, UNUSED = 0.5, 0.2
"""In standard deviations. A policy that does just what it should changes by 1.15 for what it uses, by 0 otherwise."""


def scenes(count: int, source: str, generator: torch.Generator) -> dict:
    """A white square on black, and a state; the actions are the place of the square, or the first two states."""
    place = torch.rand(count, 2, generator=generator) * 2 - 1
    state = torch.rand(count, STATES, generator=generator) * 2 - 1
    image = torch.zeros(count, 3, PIXELS, PIXELS)
    for index, (x, y) in enumerate(((place + 1) / 2 * (PIXELS - 8)).round().int().tolist()):
        image[index, :, y : y + 8, x : x + 8] = 1
    target = torch.cat((place if source == "image" else state[:, :2], torch.zeros(count, 1)), dim=1)
    return {
        IMAGE: image,
        STATE: state,
        "action": target[:, None].expand(-1, CHUNK, -1).clone(),
        "action_is_pad": torch.zeros(count, CHUNK, dtype=torch.bool),
        "task": ["push the square"] * count,
    }


class Scenes:
    """Frames of four episodes in memory; each other frame is a scene of its own."""

    def __init__(self, source: str = "image", *, frames: int = 4, instruction: str | None = None):
        generator = torch.Generator().manual_seed(1)
        self._episodes = [[scenes(frames, source, generator) for _ in range(2)] for _ in range(4)]
        self._instruction = instruction

    def __len__(self):
        return len(self._episodes)

    def own(self, place):
        return self._episodes[place][0]

    def other(self, place):
        return self._episodes[place][1]

    def other_instruction(self, place):
        return self._instruction


class Unchanged(Scenes):
    """The other frame is the frame itself."""

    other = Scenes.own


def make_policy(**overrides):
    torch.manual_seed(0)
    policy = AtlasVLAPolicy(tiny_config(**(FEATURES | {"chunk_size": CHUNK, "n_action_steps": CHUNK} | overrides)))
    return policy, *make_atlasvla_pre_post_processors(policy.config)


@cache
def trained(source: str):
    """A policy after a few seconds of training."""
    policy, before, after = make_policy(vggt_depth=1, vggt_output_layers=(0,), summary_keypoints=8)
    generator = torch.Generator().manual_seed(0)
    data = before(scenes(512, source, generator))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    policy.train()
    for _ in range(400):
        rows = torch.randint(512, (32,), generator=generator)
        loss, _ = policy(
            {key: value[rows] if isinstance(value, torch.Tensor) else value for key, value in data.items()}
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.06:
            break
    return policy.eval(), before, after


def changes(measured):
    return {
        part.name: part.action_change_E and sum(part.action_change_E) / len(part.action_change_E)
        for part in measured.parts
    }


def test_a_policy_that_acts_on_the_image_relies_on_it():
    measured = measure(*trained("image"), Scenes("image"), action_std_A=STD)
    found = changes(measured)
    assert found["images"] > USED
    assert found["state"] < UNUSED
    assert found["everything"] > USED
    loss = {part.name: part.loss_rise_E for part in measured.parts}
    assert min(loss["images"]) > 0.2 > max(loss["state"])
    assert measured.action_dimensions == (0, 1)


def test_a_policy_that_acts_on_the_state_does_not_rely_on_the_image():
    found = changes(measure(*trained("state"), Scenes("state"), action_std_A=STD))
    assert found["images"] < UNUSED
    assert found["state"] > USED
    assert found["everything"] > USED


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_an_unchanged_input_changes_nothing(head):
    """Although the flow head starts from random numbers; the caller's are left alone."""
    policy, before, after = make_policy(head=head)
    policy.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    measured = measure(policy, before, after, Unchanged(instruction="push the square"), action_std_A=STD)
    assert torch.equal(torch.get_rng_state(), state)
    assert policy.training
    swapped = [part for part in measured.parts if not part.name.startswith("geometry blocks")]
    assert [part.name for part in swapped] == ["images", "state", "instruction", "everything"]
    for part in swapped:
        assert part.action_change_E == (0.0,) * 4
        assert part.loss_rise_E == (0.0,) * 4
    other = measure(policy, before, after, Scenes(instruction="lift the lid"), action_std_A=STD)
    if head == "flow":
        # An untrained flow head ignores its input, and its loss is that of the noise.
        assert other.loss_E == measured.loss_E
    else:
        assert min(changes(other)[name] for name in ("images", "state", "instruction", "everything")) > 0


def test_batches_do_not_matter():
    policy = make_policy()
    whole = measure(*policy, Scenes(instruction="lift the lid"), action_std_A=STD)
    parts = measure(*policy, Scenes(instruction="lift the lid"), action_std_A=STD, batch_size=3)
    assert changes(parts) == pytest.approx(changes(whole), abs=1e-5)
    assert parts.loss_E == pytest.approx(whole.loss_E, abs=1e-5)


def test_what_cannot_be_measured_says_why():
    policy, before, after = make_policy()
    policy.config.feature_cache = "somewhere"
    by_name = {part.name: part for part in measure(policy, before, after, Scenes(), action_std_A=STD).parts}
    assert by_name["instruction"].reason == "one instruction only: not measurable"
    assert by_name["instruction"].action_change_E is None
    assert "feature_cache=somewhere" in by_name["geometry blocks as noise"].reason
    assert "feature_cache=somewhere" in by_name["geometry blocks removed"].reason
    with pytest.raises(ValueError, match=r"No action of the dataset varies \(standard deviations \[0\.0, 0\.0, 0\.0\]"):
        measure(policy, before, after, Scenes(), action_std_A=torch.zeros(3))
    with pytest.raises(ValueError, match="actions have 3 dimensions, the dataset's 7"):
        measure(policy, before, after, Scenes(), action_std_A=torch.ones(7))


class TwoViews(Scenes):
    """The wrist camera sees the square, too."""

    def own(self, place):
        return super().own(place) | {WRIST: super().own(place)[IMAGE].flip(2)}

    def other(self, place):
        return super().other(place) | {WRIST: super().other(place)[IMAGE].flip(2)}


def make_act(steps):
    views = {key: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)) for key in (IMAGE, WRIST)}
    config = ACTConfig(
        **FEATURES | {"input_features": FEATURES["input_features"] | views},
        **SMALL_ACT,
        chunk_size=CHUNK,
        n_action_steps=steps,
    )
    torch.manual_seed(0)
    return ACTPolicy(config), *make_act_pre_post_processors(config)


def test_a_policy_of_another_type_by_hand():
    """ACT, whose loss has no single samples; every figure once more from its own chunk and loss."""
    policy, before, after = make_act(steps=1)
    frames = TwoViews(instruction="lift the lid", frames=3)
    measured = measure(policy, before, after, frames, action_std_A=STD)
    by_name = {part.name: part for part in measured.parts}
    assert list(by_name) == ["images", IMAGE, WRIST, "state", "instruction", "everything"]
    assert by_name["instruction"].action_change_E == (0.0,) * 4
    policy.eval()
    own, other = before(frames.own(2)), before(frames.other(2))
    for name, keys in {"images": (IMAGE, WRIST), WRIST: (WRIST,), "state": (STATE,)}.items():
        swapped = own | {key: other[key] for key in keys}
        moved = (policy.predict_action_chunk(swapped) - policy.predict_action_chunk(own))[:, :1, :2].abs() / STD[0]
        assert by_name[name].action_change_E[2] == pytest.approx(moved.mean().item(), rel=1e-4)
        rise = (policy(swapped)[0] - policy(own)[0]).item()
        assert by_name[name].loss_rise_E[2] == pytest.approx(rise, abs=1e-6)
    assert min(by_name["images"].action_change_E) > 0
    assert measured.n_action_steps == 1


def test_a_policy_without_a_loss(monkeypatch):
    def forward(self, batch):
        raise NotImplementedError

    policy = make_act(steps=2)
    expected = changes(measure(*policy, TwoViews(frames=2), action_std_A=STD))
    monkeypatch.setattr(ACTPolicy, "forward", forward)
    measured = measure(*policy, TwoViews(frames=2), action_std_A=STD)
    assert measured.loss_E is None
    assert {part.loss_rise_E for part in measured.parts} == {None}
    assert changes(measured) == expected


def test_everything_takes_the_other_frames_instruction():
    swaps, missing = reliance.swaps_of(make_policy()[0].config, make_policy()[1], (IMAGE, STATE, "task"))
    own = {IMAGE: 1, STATE: 1, f"{STATE}_is_pad": 1, "task": ["a"], "task_index": 1, "action": 1}
    other = {IMAGE: 2, STATE: 2, f"{STATE}_is_pad": 2, "task": ["b"], "task_index": 2, "action": 2}
    by_name = {swap.name: swap.apply(own, other, "c") for swap in swaps}
    assert missing == []
    assert by_name["images"] == own | {IMAGE: 2}
    assert by_name["state"] == own | {STATE: 2, f"{STATE}_is_pad": 2}
    assert by_name["instruction"] == {key: value for key, value in own.items() if key != "task_index"} | {"task": ["c"]}
    assert by_name["everything"] == other | {"action": 1}


def test_a_policy_without_images_or_state_says_so():
    policy, before, _ = make_act(steps=1)
    policy.config.input_features = {"observation.environment_state": PolicyFeature(FeatureType.ENV, (2,))}
    swaps, missing = reliance.swaps_of(policy.config, before, (IMAGE, STATE, "observation.environment_state"))
    assert [(part.name, part.reason) for part in missing] == [("images", "the policy reads no image")]
    assert [swap.keys for swap in swaps if swap.name == "state"] == [("observation.environment_state",)]
    policy.config.input_features = {"observation.front": PolicyFeature(FeatureType.VISUAL, (3, 8, 8))}
    before.steps[0].rename_map = {IMAGE: "observation.front"}
    swaps, missing = reliance.swaps_of(policy.config, before, (IMAGE, STATE))
    assert [swap.keys for swap in swaps] == [(IMAGE,), (), (IMAGE,)]
    assert [part.reason for part in missing] == ["the policy reads no state"]


def test_a_policy_with_landmarks_takes_every_frame_for_itself():
    """Although it remembers the cameras of an episode: what is not changed changes nothing."""
    policy = landmark_policy()
    pipelines = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    frames = Unchanged(instruction=TASK)
    frames._episodes = [[raw_batch(seed=2 * place), raw_batch(seed=2 * place + 1)] for place in range(4)]
    found = changes(measure(policy, *pipelines, frames, action_std_A=torch.ones(7)))
    assert found["images"] == found["state"] == 0
    assert min(found["geometry blocks as noise"], found["geometry blocks removed"]) > 1e-4
    frames.other = lambda place: frames._episodes[place][1]
    found = changes(measure(policy, *pipelines, frames, action_std_A=torch.ones(7)))
    assert min(found["images"], found[WRIST], found[IMAGE], found["state"]) > 1e-4
