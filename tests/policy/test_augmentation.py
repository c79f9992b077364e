"""Crop and colors in training: one draw per sample, shared by its views; bounded, fair, and off outside training."""

import pytest
import torch
from torchvision.transforms import v2

from lerobot_atlasvla.configuration_atlasvla import ConfigError
from lerobot_atlasvla.inputs import random_crop_and_jitter
from tests.conftest import tiny_config
from tests.helpers.released import preprocessed, tiny_policy

SIZE = 40
BOTH = [(0.3, 0.0), (0.0, 0.4), (0.3, 0.4)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(*leading: int) -> torch.Tensor:
    return torch.rand(*leading, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def coordinates(samples: int, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    """Pictures whose red is the column and whose green is the row, from 0 to 1."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack((columns, rows, torch.zeros_like(rows))).expand(samples, 1, 3, height, width)


@pytest.mark.parametrize(("crop", "color"), BOTH)
def test_all_views_of_a_sample_are_changed_alike(crop, color):
    views = images(4, 1).expand(4, 3, 3, SIZE, SIZE)
    changed = random_crop_and_jitter(views, crop, color)
    torch.testing.assert_close(changed[:, 1:], changed[:, :1].expand_as(changed[:, 1:]))
    assert (changed - views).abs().amax((1, 2, 3, 4)).min() > 0.01


@pytest.mark.parametrize(("crop", "color"), BOTH)
def test_samples_are_changed_differently(crop, color):
    changed = random_crop_and_jitter(images(1, 2).expand(6, 2, 3, SIZE, SIZE), crop, color)
    for one in range(6):
        for other in range(one):
            assert (changed[one] - changed[other]).abs().max() > 0.01


@pytest.mark.parametrize(("crop", "color"), [*BOTH, (0.9, 1.0)])
def test_values_and_shape_stay_as_they_were(crop, color):
    views = images(5, 2)
    before = views.clone()
    changed = random_crop_and_jitter(views, crop, color)
    assert changed.shape == views.shape
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()
    assert 0 <= changed.min() < changed.max() <= 1
    assert torch.equal(views, before)


def test_small_strengths_change_little():
    views = images(4, 2)
    torch.testing.assert_close(random_crop_and_jitter(views, 1e-4, 0.0), views, rtol=0, atol=0.01)
    torch.testing.assert_close(random_crop_and_jitter(views, 0.0, 1e-4), views, rtol=0, atol=1e-3)


def test_calls_differ_and_a_seed_repeats_them():
    views = images(2, 2)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(random_crop_and_jitter(views, 0.3, 0.4))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(random_crop_and_jitter(views, 0.3, 0.4), results[2])


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (28, 56)])
def test_a_window_keeps_the_shape_of_the_image_and_lies_anywhere(height, width):
    crop = 0.4
    changed = random_crop_and_jitter(coordinates(300, height, width), crop, 0.0)[:, 0]
    low, high = changed[:, :2].amin((-2, -1)), changed[:, :2].amax((-2, -1))
    extent = high - low
    assert extent.min() > 1 - crop - 2 / height
    assert extent.min() < 1 - crop + 0.1
    assert extent.max() > 0.97
    torch.testing.assert_close(extent[:, 0], extent[:, 1], rtol=0, atol=2 / height)
    center = (low + high).mean(0) / 2
    torch.testing.assert_close(center, torch.full((2,), 0.5), rtol=0, atol=0.03)
    small = extent[:, 0] < 0.8
    # Windows touch every side now and then.
    assert (low[small].amin(0) < 0.03).all()
    assert (high[small].amax(0) > 0.97).all()
    assert changed[:, 2].abs().max() == 0


def test_brightness_changes_up_to_the_strength_and_is_fair():
    """A gray image keeps its color and has no contrast, so what is left is the brightness."""
    gray = torch.full((400, 1, 3, 4, 4), 0.5)
    factors = random_crop_and_jitter(gray, 0.0, 0.4).mean((1, 2, 3, 4)) / 0.5
    assert 0.6 - 1e-3 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4 + 1e-3
    assert factors.mean() == pytest.approx(1, abs=0.04)


def test_the_hue_changes_by_a_tenth_of_the_strength():
    # Dull, so that no other change clips a channel, which would move the hue too.
    red = torch.tensor([0.5, 0.4, 0.4])[:, None, None].expand(300, 1, 3, 4, 4)
    changed = random_crop_and_jitter(red, 0.0, 0.4)[:, 0, :, 0, 0]
    spread = changed.amax(1) - changed.amin(1)
    # Near red, a hue of h turns puts the middle channel 6 h of the way from the smallest to the largest.
    turns = (changed[:, 1] - changed[:, 2]) / spread / 6
    assert (changed.argmax(1) == 0).all()
    assert -0.042 < turns.min() < -0.035
    assert 0.035 < turns.max() < 0.042


def test_colors_change_as_in_torchvision(monkeypatch):
    """Only its order of changes is random, so here it is brightness, contrast, saturation, hue."""
    views = images(1, 2)
    amounts = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.2, "hue": 0.03}
    expected = views
    for name, amount in amounts.items():
        expected = getattr(v2.functional, f"adjust_{name}")(expected, amount)
    draws = iter(amounts.values())
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(next(draws)))
    torch.testing.assert_close(random_crop_and_jitter(views, 0.0, 0.4), expected)


# --- in the policy ---


@pytest.mark.parametrize("strength", [{"random_crop": 0.3}, {"color_jitter": 0.4}, {"random_shift": 4}])
def test_images_are_changed_in_training_only(strength):
    policy, batch = tiny_policy(**strength), preprocessed(tiny_config())
    policy.eval()
    assert policy(batch)[0] == policy(batch)[0]
    assert torch.equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    policy.train()
    assert len({policy(batch)[0].item() for _ in range(4)}) == 4
    plain = tiny_policy()
    plain.load_state_dict(policy.state_dict())
    # Also a policy in training mode predicts from the images as they are.
    policy.train()
    assert torch.equal(policy.predict_action_chunk(batch), plain.predict_action_chunk(batch))


def test_without_strengths_training_draws_nothing():
    policy, batch = tiny_policy().train(), preprocessed(tiny_config())
    assert policy(batch)[0] == policy(batch)[0]


@pytest.mark.parametrize(
    ("overrides", "flag"),
    [
        ({"random_crop": 1.0}, "--policy.random_crop"),
        ({"random_crop": -0.1}, "--policy.random_crop"),
        ({"color_jitter": -0.1}, "--policy.color_jitter"),
        ({"color_jitter": 1.5}, "--policy.color_jitter"),
    ],
)
def test_impossible_strengths_are_refused(overrides, flag):
    with pytest.raises(ConfigError, match=flag):
        tiny_config(**overrides)
