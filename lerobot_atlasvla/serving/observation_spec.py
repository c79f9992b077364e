"""Describe what a served policy reads of an observation; the client checks it before it sends and the server always."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from lerobot.utils.constants import OBS_STATE

from lerobot_atlasvla import AtlasVLAConfig

from .wire import TASK_KEY

_MAX_TASK_BYTES = 4096


class ObservationError(ValueError):
    """An observation does not fit the policy; names the key, what came, and what is allowed."""


@dataclass(frozen=True)
class ObservationSpec:
    """The entries of an observation of one time step, without a batch axis.

    Attributes:
        cameras: Height and width by key, pixels.
        state_dim: Size of ``observation.state``; None if the policy was trained without one.
        optional: Keys among these that may be missing.
    """

    cameras: Mapping[str, tuple[int, int]]
    state_dim: int | None
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: AtlasVLAConfig) -> Self:
        """Describe what a policy with this configuration reads."""
        shapes = {key: config.image_features[key].shape for key in config.view_keys}
        state = config.robot_state_feature
        return cls(
            cameras={key: (shape[1], shape[2]) for key, shape in shapes.items()},
            state_dim=None if state is None else state.shape[0],
            optional=(*config.empty_camera_keys, *(() if config.use_state else (OBS_STATE,))),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read ``dataclasses.asdict`` of a description after JSON made lists of its tuples."""
        cameras = {str(key): (int(height), int(width)) for key, (height, width) in value["cameras"].items()}
        return cls(cameras, value["state_dim"], tuple(value["optional"]))

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of cameras and state, in a fixed order."""
        return (*self.cameras, *(() if self.state_dim is None else (OBS_STATE,)))

    def check(self, observation: Mapping[str, Any]) -> None:
        """Check keys, shapes, data types and ranges.

        Args:
            observation: Arrays by key and the instruction under ``task``.

        Raises:
            ObservationError: For the first entry that does not fit.
        """
        missing = [key for key in (*self.keys, TASK_KEY) if key not in observation and key not in self.optional]
        unknown = sorted(observation.keys() - {*self.keys, TASK_KEY})
        if missing or unknown:
            problem = f"lacks {missing}" if missing else f"has {unknown}, which the policy does not read"
            raise ObservationError(f"The observation {problem}; the policy reads {[*self.keys, TASK_KEY]}.")
        check_task(observation[TASK_KEY])
        for key in self.keys:
            if key in observation:
                self._check_array(key, observation[key])

    def _check_array(self, key: str, array: np.ndarray) -> None:
        got = f"got {array.dtype} of shape {array.shape}"
        if key == OBS_STATE:
            if array.dtype != np.float32 or array.shape != (self.state_dim,):
                raise ObservationError(f"{key} must be float32 of shape ({self.state_dim},), {got}.")
            if not np.isfinite(array).all():
                raise ObservationError(f"{key} is not finite at index {int(np.argmin(np.isfinite(array)))}.")
            return
        height, width = self.cameras[key]
        if (array.dtype, array.shape) == (np.uint8, (height, width, 3)):
            return
        if (array.dtype, array.shape) != (np.float32, (3, height, width)):
            raise ObservationError(
                f"{key} must be uint8 of shape ({height}, {width}, 3) or float32 of shape (3, {height}, {width}) in "
                f"[0, 1], {got}."
            )
        low, high = float(array.min()), float(array.max())
        # Not-a-number fails this comparison as well.
        if not (low >= 0 and high <= 1):
            shown = "not finite" if math.isnan(low) else f"in [{low:g}, {high:g}]"
            raise ObservationError(f"{key} must be in [0, 1] where it is float32; it is {shown}.")


def check_task(task: Any) -> None:
    """Check that an instruction is text, and not too long.

    Raises:
        ObservationError: If it is not text, or too long.
    """
    # Python's text can hold halves of characters, which have no bytes.
    if not isinstance(task, str) or len(task.encode(errors="ignore")) != len(task.encode(errors="surrogatepass")):
        raise ObservationError(f"{TASK_KEY} must be text.")
    if len(task.encode()) > _MAX_TASK_BYTES:
        raise ObservationError(f"{TASK_KEY} must have at most {_MAX_TASK_BYTES} bytes, got {len(task.encode())}.")
