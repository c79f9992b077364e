"""Training-time image augmentation.

Shape suffixes: B batch, V view, N images, H and W in pixels.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor
from torchvision.transforms import v2


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


def same_crop_and_colour(views_BV3HW: Tensor, crop: float, colour: float) -> Tensor:
    """Zoom into a random window and shift colours at random, the same way for all views of a sample.

    The views of a sample show one scene under one light: what changes between them should be the camera only.

    Args:
        views_BV3HW: RGB in [0, 1].
        crop: Largest fraction of each side that is cut away; what is left is resized to the old size.
        colour: Largest change of brightness, contrast and saturation as a factor; hue changes by a tenth of it.
    """
    size = list(views_BV3HW.shape[-2:])
    ratio = size[1] / size[0]
    steps: list[torch.nn.Module] = []
    if crop:
        scale = ((1 - crop) ** 2, 1.0)
        steps.append(v2.RandomResizedCrop(size, scale=scale, ratio=(ratio, ratio), antialias=True))
    if colour:
        steps.append(v2.ColorJitter(colour, colour, colour, hue=colour / 10))
    # A transform draws once per call and treats leading axes alike, so one call is one sample with all its views.
    change = v2.Compose(steps)
    return torch.stack([change(views_V3HW) for views_V3HW in views_BV3HW]).clamp(0, 1)
