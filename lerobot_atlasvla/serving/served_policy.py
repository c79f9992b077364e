"""The one policy that a server serves, with its pipelines: from an observation to actions.

Shape suffixes: B batch, T chunk, A action.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.utils.constants import OBS_STATE
from safetensors import SafetensorError

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.model.conditioning.scene_cameras import SceneCameras
from lerobot_atlasvla.utils.paths import checkpoint_folder
from lerobot_atlasvla.weights.checkpoint import UNREADABLE_CONFIG

from .observation_spec import ObservationSpec
from .settings import ServingError

# What LeRobot and the policy raise for a checkpoint that is missing, damaged, or does not fit its configuration.
_LOADING_ERRORS = (OSError, RuntimeError, SafetensorError, *UNREADABLE_CONFIG)


@dataclass
class ServedPolicy:
    """A policy ready to act. Its pipelines keep the observation they work on, so only one thread may use it at a time.

    Attributes:
        checkpoint: Folder or Hub id, as given to the server.
        policy: The policy, on its device.
        preprocess: From raw observations to the policy's.
        postprocess: From normalized actions to the robot's, on the CPU.
        spec: What the policy reads.
    """

    checkpoint: str
    policy: AtlasVLAPolicy
    preprocess: Any
    postprocess: Any
    spec: ObservationSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = ObservationSpec.of(self.policy.config)

    @classmethod
    def load(cls, checkpoint: str, device: str | None) -> Self:
        """Load a checkpoint and let it predict once, so that whatever is wrong with it shows before a robot connects.

        Args:
            checkpoint: Folder or Hub id.
            device: Where to compute; as the checkpoint says if None.

        Raises:
            ServingError: If it can't be loaded or does not predict.
        """
        try:
            name = checkpoint
            if checkpoint.startswith("~") or Path(checkpoint).is_dir():  # an id of the Hub otherwise
                name = str(checkpoint_folder(Path(checkpoint).expanduser()))
            config = PreTrainedConfig.from_pretrained(name, cli_overrides=[f"--device={device}"] if device else [])
            if not isinstance(config, AtlasVLAConfig):
                raise ServingError(f"--checkpoint={checkpoint} is a policy of type {config.type}, not atlasvla.")
            if device and config.device != device:
                raise ServingError(f"--device={device} is not available on this machine; {config.device} is.")
            if config.use_state and config.state_keys != (OBS_STATE,):
                raise ServingError(
                    f"--checkpoint={checkpoint} reads its state from {', '.join(config.state_keys)}; the server knows "
                    f"{OBS_STATE} only. Run it without a server, or train on a dataset with the parts in one column."
                )
            policy = AtlasVLAPolicy.from_pretrained(name, config=config)
            # Observations come under the policy's own names, not under those of its training data.
            here = {"device_processor": {"device": config.device}, "rename_observations_processor": {"rename_map": {}}}
            preprocess, postprocess = make_pre_post_processors(config, name, preprocessor_overrides=here)
            served = cls(checkpoint, policy, preprocess, postprocess)
            served.predict(served.blank_observation())
        except _LOADING_ERRORS as error:
            raise ServingError(f"--checkpoint={checkpoint} can't be served: {error}") from error
        return served

    def blank_observation(self) -> dict[str, Any]:
        """Return an observation of the right form: black images, a state of zeros, some instruction."""
        cameras = {key: np.zeros((*size, 3), np.uint8) for key, size in self.spec.cameras.items()}
        state = {key: np.zeros(self.spec.state_dim or 0, np.float32) for key in self.spec.keys if key not in cameras}
        return cameras | state | {"task": "warm up"}

    def predict(self, observation: Mapping[str, Any], cameras: SceneCameras | None = None) -> np.ndarray:
        """Predict a chunk of actions.

        Args:
            observation: As checked by :meth:`ObservationSpec.check`.
            cameras: Where the cameras of the client's episode have stood so far; of an episode of its own if None.

        Returns:
            Actions (T, A) in the robot's units, float32, T = ``chunk_size``.

        Raises:
            ServingError: If an action is not finite.
        """
        batch = {key: _as_in_datasets(value) for key, value in observation.items()}
        with torch.inference_mode():
            chunk_BTA = self.policy.predict_action_chunk(self.preprocess(batch), cameras=cameras or SceneCameras())
            actions_TA = self.postprocess(chunk_BTA[0])
        return checked_actions(actions_TA).numpy()


def _as_in_datasets(value: Any) -> Any:
    """One entry as LeRobot's datasets have it: images (3, H, W) in [0, 1]."""
    if not isinstance(value, np.ndarray):
        return value
    # A message's bytes are read-only, which torch warns about.
    tensor = torch.from_numpy(value.copy())
    return tensor.permute(2, 0, 1).float() / 255 if tensor.dtype == torch.uint8 else tensor


def checked_actions(actions_TA: torch.Tensor) -> torch.Tensor:
    """Return the actions, float32 on the CPU.

    Raises:
        ServingError: If one is not finite, which no robot should get.
    """
    actions_TA = actions_TA.detach().float().cpu()
    if not actions_TA.isfinite().all():
        raise ServingError("The policy predicted an action that is not finite; none was sent.")
    return actions_TA
