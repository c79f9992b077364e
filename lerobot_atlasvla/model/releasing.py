"""Let go of a frozen backbone's weights while training does not need them, and read them again when somebody does."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

# Rollouts during training run in threads. Not on the object, which is copied with the policy.
_LOCK = threading.RLock()


class ReleasableWeights:
    """The weights of a frozen backbone that can be read again, bit for bit, from where they came.

    They are let go of after a batch that did not need them. Each time that this turned out to be too early, it takes
    twice as many such batches in a row, so that reading them again stays rare however rare instructions come. Whoever
    asks for a state dict, moves the backbone or loads into it finds them in place.

    Args:
        backbone: Frozen, its weights in place. Released, its parameters are on PyTorch's meta device.
        unchanged: Returns whether the weights still are what their source gave.
        read: Fills a backbone without memory from that source, or raises an error that says what is missing.
        replaced: Called whenever the parameters were replaced, which changes nothing about what they say.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        unchanged: Callable[[nn.Module], bool],
        read: Callable[[nn.Module], None],
        replaced: Callable[[], None],
    ):
        self._backbone, self._unchanged, self._read, self._replaced = backbone, unchanged, read, replaced
        # Where the weights were; None while they are in place.
        self._home: torch.device | None = None
        self._patience = 1
        self._quiet = 0
        backbone.register_state_dict_pre_hook(self._before)
        backbone.register_load_state_dict_pre_hook(self._before)

    @property
    def released(self) -> bool:
        """Return whether the weights are gone."""
        return self._home is not None

    def after_batch(self, *, new: bool) -> None:
        """Count a training batch, and let go of the weights if no more are likely to need them.

        Args:
            new: Whether this one needed them.
        """
        self._quiet = 0 if new else self._quiet + 1
        # Wrappers for several processes keep the parameters that they were made with.
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        if self._quiet == self._patience and alone and not self.released and self._unchanged(self._backbone):
            self._release()

    def restore(self, *, too_early: bool = False) -> None:
        """Put the weights back, if they are gone.

        Args:
            too_early: Whether they should not have been let go of yet.

        Raises:
            ValueError: If they can't be had any more.
        """
        with _LOCK:
            if self._home is None:
                return
            # Reading asks for the state dict's names and shapes, which the meta device has.
            home, self._home = self._home, None
            try:
                # Perhaps for a rollout, but training goes on with them.
                with torch.inference_mode(False), torch.no_grad():
                    self._read(self._backbone)
            except BaseException:
                self._home = home
                raise
            self._backbone.requires_grad_(False).to(home)
            self._replaced()
            # What else needs them, such as a checkpoint, says nothing about the next batch.
            self._patience, self._quiet = (2 * self._patience, 0) if too_early else (self._patience, self._patience - 1)

    def _release(self) -> None:
        with _LOCK:
            self._home = next(self._backbone.parameters()).device
            size = sum(parameter.nbytes for parameter in self._backbone.parameters())
            for module in self._backbone.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        without = torch.empty_like(parameter, device="meta")
                        module._parameters[name] = nn.Parameter(without, requires_grad=False)
            self._replaced()
        if self._patience == 1:
            logger.info(
                "All instructions so far are encoded: the language model's weights are released (%.2f GB) and read "
                "again when a new instruction, or a checkpoint, needs them.",
                size / 1e9,
            )

    def _before(self, *_: Any) -> None:
        self.restore()
