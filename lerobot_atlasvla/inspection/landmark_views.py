"""Record where in the views a policy's 3-D landmarks look while it predicts.

Shape suffixes: V view, K landmarks, Q cells of a view (row by row).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights.peft import without_adapter


@dataclass(frozen=True)
class LandmarkViews:
    """Says where landmarks look in the first sample of a batch. Landmark k of one view is not landmark k of another.

    Attributes:
        views: Image keys, in the policy's order.
        places_VK2: Column and row in each view that a landmark looks at, as parts of its width and height, in [0, 1]:
            the mean over the cells, with the weights that also make its position in space.
        visibility_VK: How much it counts, in [0, 1], as the policy gets it.
    """

    views: tuple[str, ...]
    places_VK2: np.ndarray
    visibility_VK: np.ndarray


class LandmarkRecorder:
    """Records where landmarks look, in a ``with`` block; outside of it the policy is as it was.

    Inside the block whatever is compiled runs uncompiled. Not for several threads at once.

    Args:
        policy: The policy, with or without an adapter (PEFT) around it.

    Attributes:
        chunks: One entry per forward pass of the model.

    Raises:
        ValueError: If it has no landmarks.
    """

    def __init__(self, policy: AtlasVLAPolicy):
        whole = without_adapter(policy)
        landmarks = whole.model.landmarks if isinstance(whole, AtlasVLAPolicy) else None
        if landmarks is None:
            raise ValueError("The policy has no landmarks (--policy.query_conditioning=landmarks or only_landmarks).")
        self._policy, self._landmarks = whole, landmarks
        self._match = landmarks.match
        self._stack = ExitStack()
        self.chunks: list[LandmarkViews] = []

    def __enter__(self) -> Self:
        # No hook sees the weights of the cells, and no landmark must be computed twice: the cameras' mean would move.
        self._landmarks.match = self._note
        self._stack.callback(delattr, self._landmarks, "match")
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _note(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        weights_BVKQ, seen_BVK = self._match(*arguments, **named)
        places_Q2 = cell_places(self._policy.model.grid, weights_BVKQ.shape[-1]).to(weights_BVKQ)
        places_VK2 = (weights_BVKQ[0] @ places_Q2).detach().cpu().numpy()
        visibility_VK = seen_BVK[0].detach().cpu().numpy()
        self.chunks.append(LandmarkViews(self._policy.config.view_keys, places_VK2, visibility_VK))
        return weights_BVKQ, seen_BVK


def cell_places(grid: tuple[int, int], cells: int) -> Tensor:
    """Return the middle of each cell of a view, ``(cells, 2)``: column and row as parts of its width and height.

    Args:
        grid: Patch rows and columns.
        cells: Cells of a view, as many along a patch's width as along its height.
    """
    rows, columns = grid
    side = round((cells / (rows * columns)) ** 0.5)
    across, down = ((torch.arange(count * side) + 0.5) / (count * side) for count in (columns, rows))
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).flatten(0, 1)
