"""The policy in PyTorch, which the exported graph is made of and compared with.

Shape suffixes: L language tokens, E language width, T chunk, A action.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies import make_pre_post_processors
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.inputs import prepare
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.pipelines.tokenizer_step import SelfContainedTokenizerStep
from lerobot_atlasvla.weights import checkpoint as checkpoint_files

from .settings import ExportError

_EXPORTED_STEPS = (
    RenameObservationsProcessorStep,
    AddBatchDimensionProcessorStep,
    SelfContainedTokenizerStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    UnnormalizerProcessorStep,
)


def read_config(folder: Path) -> AtlasVLAConfig:
    """Read a checkpoint's configuration; it will compute in float32 on the CPU, as the graph does.

    Raises:
        ExportError: If its head, its conditioning or temporal ensembling can't be exported.
        WeightsError: If it is damaged or another policy's.
    """
    config = checkpoint_files.read_config(folder)
    if config.head != "l1":
        raise ExportError(
            f"--checkpoint={folder} has the action head {config.head}, which starts from noise and is not exported; "
            "train with --policy.head=l1."
        )
    if config.temporal_ensemble_coeff is not None:
        raise ExportError(
            f"--checkpoint={folder} averages chunks, which the exported policy does not; set temporal_ensemble_coeff, "
            f"{config.temporal_ensemble_coeff}, to null in its config.json."
        )
    if config.reads_landmarks:
        raise ExportError(
            f"--checkpoint={folder} has query_conditioning {config.query_conditioning}, whose cameras' places are "
            "averaged over an episode, which a graph can't; train with --policy.query_conditioning=keypoints."
        )
    config.device = "cpu"
    config.dtype = config.backbone_dtype = "float32"
    config.compile_model = False
    return config


class Reference:
    """A policy with its pipelines, from raw observations to the robot's actions.

    Args:
        folder: The checkpoint.
        config: As :func:`read_config` read it.

    Raises:
        ExportError: If it can't be loaded, or its pipelines do what is not exported.
    """

    def __init__(self, folder: Path, config: AtlasVLAConfig):
        try:
            self.policy = AtlasVLAPolicy.from_pretrained(folder, config=config).eval().requires_grad_(False)
        except ValueError as error:
            raise ExportError(f"--checkpoint={folder} can't be exported: {error}") from error
        self.config = self.policy.config
        # Observations come under the policy's own names, not under those of its training data.
        here = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
        self._preprocess, self._postprocess = make_pre_post_processors(
            self.config, str(folder), preprocessor_overrides=here
        )
        steps: list[Any] = [*self._preprocess.steps, *self._postprocess.steps]
        if other := [type(step).__name__ for step in steps if not isinstance(step, _EXPORTED_STEPS)]:
            raise ExportError(f"--checkpoint={folder} has the processing step {other[0]}, which is not exported.")
        (self.normalize,) = (step for step in steps if type(step) is NormalizerProcessorStep)
        (self.unnormalize,) = (step for step in steps if type(step) is UnnormalizerProcessorStep)

    def encode(self, instruction: str) -> Tensor:
        """Return the language features (L, E) of an instruction, at least one word."""
        blank = {key: np.zeros((*feature.shape[1:], 3), np.uint8) for key, feature in self._cameras.items()}
        state = np.zeros(self.config.state_dim, np.float32)
        inputs = prepare(self.config, self._batch(blank, state, instruction), training=False)
        with torch.no_grad():
            return self.policy.model.encode_language(inputs).tokens_BSD[0]

    def predict(self, images: Mapping[str, np.ndarray], state: np.ndarray, instruction: str) -> np.ndarray:
        """Predict a chunk of the robot's actions, (T, A) float32; arguments as of ``ExportedPolicy``."""
        chunk_BTA = self.policy.predict_action_chunk(self._batch(images, state, instruction))
        return self._postprocess(chunk_BTA[0]).numpy()

    def to_robot(self, action: np.ndarray) -> np.ndarray:
        """Bring a normalized action (A,) to the robot's units."""
        return self._postprocess(torch.from_numpy(action)).numpy()

    def statistics(self, key: str) -> dict[str, Tensor]:
        """Return what is known of a feature of the training data, such as its mean; empty if nothing is."""
        step = self.unnormalize if key == ACTION else self.normalize
        return step._tensor_stats.get(key, {})

    @property
    def _cameras(self) -> dict[str, Any]:
        return {key: self.config.image_features[key] for key in self.config.view_keys}

    def _batch(self, images: Mapping[str, np.ndarray], state: np.ndarray, instruction: str) -> dict[str, Any]:
        batch: dict[str, Any] = {key: torch.from_numpy(image).permute(2, 0, 1) / 255 for key, image in images.items()}
        return self._preprocess(batch | split_state(self.config, torch.from_numpy(state)) | {"task": instruction})


def split_state(config: AtlasVLAConfig, state: Tensor) -> dict[str, Tensor]:
    """Split a state into the parts that the data keep; most have one. Empty for a policy without a state."""
    sizes = state_sizes(config)
    return dict(zip(sizes, state.split(list(sizes.values()), dim=-1), strict=True)) if sizes else {}


def state_sizes(config: AtlasVLAConfig) -> dict[str, int]:
    """Return the numbers of each part of the state, in the order in which they make one."""
    if not config.use_state:
        return {}
    return {key: (config.input_features or {})[key].shape[0] for key in config.state_keys}
