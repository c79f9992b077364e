"""Training-time image augmentation.

Shape suffixes: N images, H and W in pixels.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)
from torch import Tensor


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
