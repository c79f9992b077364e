"""The preprocessing step that keeps the end effector's pose for landmarks, before the state is normalized."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs.types import PipelineFeatureType, PolicyFeature
from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS
from torch import Tensor

from lerobot_atlasvla.policy.checks.landmarks import POSE_NUMBERS

END_EFFECTOR_STEP = "lerobot_atlasvla_end_effector"
END_EFFECTOR = "observation.end_effector_pose"
"""Key of the pose in a preprocessed batch: position (m), rotation vector (rad), (B, 6)."""


@ProcessorStepRegistry.register(END_EFFECTOR_STEP)
@dataclass
class EndEffectorStep(ObservationProcessorStep):
    """Keeps the first numbers of the state, which are the end effector's pose, as they are.

    Attributes:
        state_keys: Keys of the state, or of its parts in their order.
    """

    state_keys: Sequence[str] = field(default_factory=list)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add the pose; an observation that lacks a part of the state stays as it is, and the policy says so."""
        parts = [observation.get(key) for key in self.state_keys]
        # LeRobot's batching step gives an axis to observation.state only, not to its parts; the instruction has one.
        samples = observation.get(OBS_LANGUAGE_TOKENS)
        known = [
            part.float().reshape(len(part if samples is None else samples), -1)
            for part in parts
            if isinstance(part, Tensor)
        ]
        if not known or len(known) < len(parts):
            return observation
        return observation | {END_EFFECTOR: torch.cat(known, dim=1)[:, :POSE_NUMBERS]}

    def get_config(self) -> dict[str, Any]:
        """Return what the step is built from again."""
        return {"state_keys": list(self.state_keys)}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """Return the features as they are: the pose is for the policy alone."""
        return features
