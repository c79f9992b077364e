"""Which frozen backbones are still what their sources gave: a checkpoint refers to those instead of holding them."""

import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from torch import Tensor, nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.atlas import AtlasVLA

from . import backbones
from . import checkpoint as slim

logger = logging.getLogger(__name__)


class SourceMarks:
    """Fingerprints of a policy's frozen backbones as they came from their sources; reads and writes its checkpoints.

    Args:
        config: The policy's configuration.
        model: Its network.
    """

    def __init__(self, config: AtlasVLAConfig, model: AtlasVLA):
        self._config, self._model = config, model
        self._as_read: dict[str, str] = {}

    def remember(self, part: str, fingerprint: str) -> None:
        """Note what a part was right after it was read, if it is frozen."""
        if self._config.is_frozen(part):
            self._as_read[part] = fingerprint

    def of(self, part: str) -> str:
        """The fingerprint of a part that nothing has changed since it was read."""
        return self._as_read.get(part) or backbones.fingerprint(part, self._model.backbones()[part])

    def unchanged(self) -> list[str]:
        """Frozen backbones that are still what their source gave."""
        parts = self._model.backbones()
        return [part for part, mark in self._as_read.items() if backbones.fingerprint(part, parts[part]) == mark]

    def load(self, policy: nn.Module, file: Path) -> dict[str, Tensor]:
        """Fill the pretrained backbones from a checkpoint, or from the sources that it refers to.

        Args:
            policy: The policy, whose state dict has the names of a checkpoint.
            file: ``model.safetensors``.

        Returns:
            All other tensors of the checkpoint; their names and shapes are the policy's.

        Raises:
            WeightsError: If the checkpoint is damaged or does not fit, or a source is missing or another one.
        """
        config, parts = self._config, self._model.backbones()
        pretrained = backbones.pretrained_parts(config)
        prefixes = slim.prefixes(policy, {part: parts[part] for part in pretrained})
        tensors, referred = slim.load(policy, file, prefixes)
        for part in pretrained:
            prefix = prefixes[part]
            if part in referred:
                self.remember(part, backbones.read_again(config, part, parts[part]))
            else:
                inside = {
                    name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)
                }
                backbones.fill(parts[part], inside, backbones.part_dtype(config, part))
        return tensors

    def save(self, policy: nn.Module, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write a checkpoint: ``model.safetensors`` and ``config.json``.

        Args:
            policy: The policy, whose state dict has the names of a checkpoint.
            folder: Where.
            state: The policy's state dict.
        """
        parts = self._model.backbones()
        unchanged = self.unchanged()
        for part in self._as_read.keys() - set(unchanged):
            logger.warning("The frozen %s is not what its source gave any more, so the checkpoint includes it.", part)
        references = [] if self._config.save_full_weights else unchanged
        slim.save(
            state,
            folder / SAFETENSORS_SINGLE_FILE,
            references=slim.prefixes(policy, {part: parts[part] for part in references}),
            before=lambda: self._config._save_pretrained(folder),
        )
