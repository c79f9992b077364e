"""A folder that ``atlasvla-export`` wrote, as a policy that LeRobot's evaluator can roll out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lerobot_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.export.exported_policy import ExportedPolicy


class ExportedRolloutPolicy(PreTrainedPolicy):
    """Feeds an export with raw images and state: the pipelines before and after a policy are in its graph.

    Args:
        folder: The export.
        config: The policy's configuration, with ``n_action_steps`` as it will be used.

    Raises:
        ValueError: If the folder can't be used.
    """

    config_class = AtlasVLAConfig  # pyrefly: ignore[bad-assignment]
    name = "atlasvla_onnx"  # pyrefly: ignore[bad-assignment]

    def __init__(self, folder: Path, config: Any):
        super().__init__(config)
        self._exported = ExportedPolicy(folder, threads=torch.get_num_threads())
        self._exported.n_action_steps = config.n_action_steps

    @property
    def exported_parameters(self) -> int:
        """Return the number of weights in the graph."""
        return int(self._exported.about["parameters"])

    def reset(self) -> None:
        """Forget the queued actions, as at the start of every episode."""
        self._exported.reset()

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:  # pyrefly: ignore[bad-override]
        """Return the next action (1, A), in the robot's units, for what LeRobot's environments show."""
        about = self._exported.about
        # What was uint8 before LeRobot divided by 255 is that again.
        images = {key: (batch[key][0] * 255).round().byte().permute(1, 2, 0).numpy() for key in about["cameras"]}
        state = np.concatenate([np.zeros(0, np.float32), *(batch[key][0].numpy() for key in about["state"])])
        return torch.from_numpy(self._exported.select_action(images, state, batch["task"][0]))[None]

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:  # pyrefly: ignore[bad-override]
        """Refuse: rollouts ask for one action at a time."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Refuse: an export does not learn."""
        raise NotImplementedError

    def get_optim_params(self) -> dict[str, Any]:
        """Refuse: an export does not learn."""
        raise NotImplementedError
