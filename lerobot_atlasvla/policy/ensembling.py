"""Temporal ensembling: what several overlapping chunks predict for one step, averaged by LeRobot's own ensembler.

Shape suffixes: B batch (environments), T chunk, A action.
"""

from typing import Any

import torch
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig


class Ensemble:
    """The overlapping chunks of one episode, or of several that go on in step.

    Args:
        config: The policy's configuration, with ``temporal_ensemble_coeff`` set.

    Source: Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware, arXiv:2304.13705, alg. 2.
    """

    def __init__(self, config: AtlasVLAConfig):
        # Not at import: LeRobot's policies take seconds to import.
        from lerobot.policies.act.modeling_act import ACTTemporalEnsembler

        assert config.temporal_ensemble_coeff is not None
        self._ensembler: Any = ACTTemporalEnsembler(config.temporal_ensemble_coeff, config.chunk_size)

    @property
    def environments(self) -> int | None:
        """Return of how many environments the chunks so far are; None before the first."""
        actions_BTA = self._ensembler.ensembled_actions
        return None if actions_BTA is None else len(actions_BTA)

    def next_action(self, chunk_BTA: Tensor) -> Tensor:
        """Take what is predicted now, (B, T, A), and return the average for this step, (B, A)."""
        # The ensembler writes to what it keeps, which a tensor of a rollout in inference mode would not allow later.
        with torch.inference_mode(False), torch.no_grad():
            return self._ensembler.update(chunk_BTA.clone())
