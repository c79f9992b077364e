"""Turn LeRobot's preprocessed batch into the model's inputs: every key and shape is checked, keys are forgotten.

Shape suffixes: B batch, V view, N images, H and W in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from lerobot.utils.constants import OBS_IMAGES, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from .configuration_atlasvla import AtlasVLAConfig
from .model.geometry import poses
from .model.types import ModelInputs, Views
from .policy.pipelines.end_effector_step import END_EFFECTOR

INDEX = "index"
"""Key of a sample's index in its dataset."""


def entry(batch: dict[str, Tensor], key: str) -> Tensor:
    """Return one entry of a batch.

    Raises:
        ValueError: If it is missing; the message names the flags that map names.
    """
    if key not in batch:
        raise ValueError(
            f"{key!r} is missing from the batch, which has {sorted(batch)}. Map other names with --rename_map, or "
            "for LIBERO cameras with --env.camera_name_mapping; for LIBERO's state use "
            "--env.obs_type=pixels_agent_pos."
        )
    return batch[key]


def environments(batch: dict[str, Tensor]) -> int:
    """Return how many environments (or robots, or samples) the observations are of, B.

    Raises:
        ValueError: If they have no instruction.
    """
    return len(entry(batch, OBS_LANGUAGE_TOKENS))


def prepare(config: AtlasVLAConfig, batch: dict[str, Tensor], *, training: bool) -> ModelInputs:
    """Check the observations and bring them into the model's form; the batch itself is not changed.

    Args:
        config: The policy's configuration.
        batch: Preprocessed observations.
        training: Whether images are augmented.

    Raises:
        ValueError: For an entry that is missing or misshapen, or a camera that the policy does not know.
    """
    tokens_BL = entry(batch, OBS_LANGUAGE_TOKENS)
    inputs = ModelInputs(
        views=prepare_views(config, batch, training=training),
        state_BN=_state(config, batch) if config.use_state else tokens_BL.new_zeros(len(tokens_BL), 0).float(),
        tokens_BL=tokens_BL,
        token_mask_BL=entry(batch, OBS_LANGUAGE_ATTENTION_MASK),
        first_to_base_B34=_first_camera(config, batch) if config.hand_eye else None,
    )
    cameras = (config.view_keys[place] for place in inputs.views.present)
    sizes = {OBS_LANGUAGE_TOKENS: len(tokens_BL), "the state": len(inputs.state_BN)}
    sizes |= dict(zip(cameras, map(len, inputs.views.cameras), strict=True))
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"The entries of the batch are of different numbers of samples: {sizes}. Give every sample its own images, "
            "state and instruction; a 'task' for several samples is a list."
        )
    return inputs


def _first_camera(config: AtlasVLAConfig, batch: dict[str, Tensor]) -> Tensor:
    """Return the pose of the first camera in the robot base's frame, (B, 3, 4), from the state and the calibration."""
    if END_EFFECTOR not in batch:
        raise ValueError(
            f"The batch has no {END_EFFECTOR}, which the preprocessor of a policy with landmarks keeps of the state; "
            "this one was made for another policy, or got no state. Use the policy's own, or leave out "
            "--policy.hand_eye."
        )
    hand_B6 = batch[END_EFFECTOR].float()
    hand_B34 = poses.pose_of(poses.rotation_of_vector(hand_B6[:, 3:]), hand_B6[:, :3])
    eye_7 = hand_B6.new_tensor(config.hand_eye)
    return poses.compose(hand_B34, poses.pose_of(poses.rotation_of_quaternion(eye_7[3:]), eye_7[:3]))


def prepare_views(config: AtlasVLAConfig, batch: dict[str, Tensor], *, training: bool) -> Views:
    """Check the cameras of a batch. Empty cameras that it does not have are left out; a blind policy has none.

    Raises:
        ValueError: For a camera that is missing, unknown or not RGB in [0, 1].
    """
    if not config.views:
        cameras = [key for key in batch if key.startswith(f"{OBS_IMAGES}.") and not key.endswith("_is_pad")]
        unknown = sorted(set(cameras) - set(config.view_keys))
        if unknown:
            raise ValueError(
                f"The batch has cameras that the policy does not know: {unknown}; it looks through "
                f"{list(config.view_keys)}. Leave them out, or name the ones to use with --policy.views."
            )
    there = [
        (index, key)
        for index, key in enumerate(config.view_keys)
        if key in batch or key not in config.empty_camera_keys
    ]
    transform = ViewTransform(config.image_size)
    if training:
        transform = ViewTransform(config.image_size, config.random_shift, config.random_crop, config.color_jitter)
    return Views(
        cameras=tuple(_camera(batch, key) for _, key in there),
        present=tuple(index for index, _ in there),
        transform=transform,
        augmented=transform.augments,
        frames_B=batch[INDEX].flatten() if INDEX in batch else None,
    )


def _camera(batch: dict[str, Tensor], key: str) -> Tensor:
    image = entry(batch, key)
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape[2:] or not image.is_floating_point():
        raise ValueError(
            f"{key} must be float RGB of shape (B, 3, H, W) in [0, 1], got {image.dtype} of shape {tuple(image.shape)}."
        )
    return image.float()


def _state(config: AtlasVLAConfig, batch: dict[str, Tensor]) -> Tensor:
    """Return the state (B, N), put together from its parts where the data keep several."""
    parts = [_state_part(batch, key, (config.input_features or {})[key].shape[0]) for key in config.state_keys]
    if len({len(part) for part in parts}) > 1:
        sizes = {key: len(part) for key, part in zip(config.state_keys, parts, strict=True)}
        raise ValueError(f"The parts of the state have different batch sizes: {sizes}.")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _state_part(batch: dict[str, Tensor], key: str, expected: int) -> Tensor:
    state_BN = entry(batch, key)
    # LeRobot stores a list of one number as a number: (B,), which its batching step then takes for one sample, (1, B).
    if expected == 1 and state_BN.ndim <= 2:
        return state_BN.reshape(-1, 1).float()
    # That step gives an axis to observation.state only, not to its parts.
    if state_BN.ndim == 1 and len(state_BN) == expected and key != OBS_STATE:
        return state_BN[None].float()
    if state_BN.ndim != 2 or state_BN.shape[1] != expected:
        raise ValueError(f"{key} must have shape (B, {expected}) as in training, got {tuple(state_BN.shape)}.")
    return state_BN.float()


@dataclass(frozen=True)
class ViewTransform:
    """Resizes camera images to the model's size and augments them at random.

    Attributes:
        image_size: (H, W) in pixels.
        random_shift: Largest shift of each view in pixels; 0 = none.
        random_crop: Largest fraction of each side that is cut away; 0 = none.
        color_jitter: Largest change of brightness, contrast and saturation as a factor; 0 = none.
    """

    image_size: tuple[int, int]
    random_shift: int = 0
    random_crop: float = 0.0
    color_jitter: float = 0.0

    @property
    def augments(self) -> bool:
        """Say whether any augmentation is random."""
        return bool(self.random_shift or self.random_crop or self.color_jitter)

    def __call__(self, cameras: Sequence[Tensor]) -> Tensor:
        """Turn one ``(B, 3, H', W')`` per view into ``(B, V, 3, H, W)``, all in [0, 1]."""
        views = torch.stack([self._resized(camera) for camera in cameras], dim=1)
        if self.random_crop or self.color_jitter:
            views = random_crop_and_jitter(views, self.random_crop, self.color_jitter)
        if self.random_shift:
            views = random_shift(views.flatten(0, 1), self.random_shift).view_as(views)
        return views

    def _resized(self, image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) == self.image_size:
            return image
        return F.interpolate(image, self.image_size, mode="bilinear", align_corners=False, antialias=True)


def random_shift(images_N3HW: Tensor, max_shift: int) -> Tensor:
    """Shift each image by its own random whole number of pixels, repeating the edge.

    Source: Yarats et al., Image Augmentation Is All You Need, ICLR 2021, arXiv:2004.13649, sec. 3.

    Args:
        images_N3HW: Any images.
        max_shift: Largest shift in pixels, each way and axis.
    """
    count, _, height, width = images_N3HW.shape
    padded = F.pad(images_N3HW, (max_shift,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * max_shift + 1, (2, count, 1), device=images_N3HW.device)
    rows = top + torch.arange(height, device=top.device)
    columns = left + torch.arange(width, device=top.device)
    index = torch.arange(count, device=top.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_crop_and_jitter(views_BV3HW: Tensor, crop: float, jitter: float) -> Tensor:
    """Zoom into a random window and shift colors at random, the same way for all views of a sample.

    The views of a sample show one scene under one light: what changes between them should be the camera only.

    Args:
        views_BV3HW: RGB in [0, 1].
        crop: Largest fraction of each side that is cut away; what is left is resized to the old size.
        jitter: Largest change of brightness, contrast and saturation as a factor; hue changes by a tenth of it.
    """
    # All samples at once: 93 operations for 16 samples, each a launch on a GPU; one sample after the other 2,101.
    if crop:
        views_BV3HW = _zoomed(views_BV3HW, crop)
    if jitter:
        views_BV3HW = _recolored(views_BV3HW, jitter)
    return views_BV3HW.clamp(0, 1)


def _zoomed(views_BV3HW: Tensor, crop: float) -> Tensor:
    """Resize one window of each sample; as torchvision's RandomResizedCrop, its area is uniform."""
    samples, views = views_BV3HW.shape[:2]
    side_B = torch.empty(samples, device=views_BV3HW.device).uniform_((1 - crop) ** 2, 1).sqrt()
    corner_B2 = torch.rand(samples, 2, device=side_B.device) * (1 - side_B)[:, None]
    # From left to right and from top to bottom, the image's coordinates go from -1 to 1.
    center_B2 = 2 * corner_B2 + side_B[:, None] - 1
    window_B23 = torch.cat((torch.eye(2, device=side_B.device) * side_B[:, None, None], center_B2[..., None]), dim=-1)
    images_N3HW = views_BV3HW.flatten(0, 1)
    grid_BHW2 = F.affine_grid(window_B23, [samples, *images_N3HW.shape[1:]], align_corners=False)
    grid_NHW2 = grid_BHW2.repeat_interleave(views, dim=0)
    zoomed_N3HW = F.grid_sample(images_N3HW, grid_NHW2, padding_mode="border", align_corners=False)
    return zoomed_N3HW.view_as(views_BV3HW)


def _recolored(views_BV3HW: Tensor, jitter: float) -> Tensor:
    """Change brightness, contrast, saturation and hue, each as torchvision's ColorJitter does, in this order."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(views_BV3HW), 1, 1, 1, 1, device=views_BV3HW.device).uniform_(low, high)

    def blended(image: Tensor, other: Tensor) -> Tensor:
        return torch.lerp(other, image, draw(1 - jitter, 1 + jitter)).clamp_(0, 1)

    def gray(image: Tensor) -> Tensor:
        red, green, blue = image.unbind(-3)
        return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)  # ITU-R BT.601, as in torchvision

    image = blended(views_BV3HW, torch.zeros_like(views_BV3HW[..., :1, :1, :1]))
    image = blended(image, gray(image).mean((-3, -2, -1), keepdim=True))
    image = blended(image, gray(image))
    return _turned_hue(image, draw(-jitter / 10, jitter / 10).squeeze(2))


def _turned_hue(images_X3HW: Tensor, turns_X11: Tensor) -> Tensor:
    """Turn the hue; brightness (largest channel) and saturation (distance to the smallest) stay.

    Source: the hexagon of Smith, Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    red, green, blue = images_X3HW.unbind(-3)
    most = images_X3HW.amax(-3)
    spread = most - images_X3HW.amin(-3)
    per_spread = 1 / spread.clamp(min=1e-8)
    sixths = torch.where(
        most == red,
        (green - blue) * per_spread,
        torch.where(most == green, (blue - red) * per_spread + 2, (red - green) * per_spread + 4),
    )
    offset_3 = torch.tensor((5, 3, 1), device=most.device)
    place = ((sixths + 6 * turns_X11).unsqueeze(-3) + offset_3[:, None, None]).remainder_(6)
    return torch.addcmul(
        most.unsqueeze(-3), spread.unsqueeze(-3), torch.minimum(place, 4 - place).clamp_(0, 1), value=-1
    )
