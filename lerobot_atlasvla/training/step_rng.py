"""Random numbers of a training step that depend on the step only, so that a resumed run draws them again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# An odd constant without structure spreads neighboring steps over all seeds (the golden ratio, as in SplitMix64).
_SPREAD = 0x9E3779B97F4A7C15
_SEEDS = 2**63


class StepRng(nn.Module):
    """A seed and a count of steps, saved with the policy.

    PyTorch's own generator does not survive a resume: LeRobot restores its state, and then the new data loader draws
    from it. With augmentation or flow matching a resumed run would go another way than the uninterrupted one.

    A policy that is trained on from a checkpoint (``--policy.path``) goes on with the checkpoint's numbers, whatever
    ``--seed`` says: LeRobot loads it in the same way as a resumed one.
    """

    state: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Two int64: the seed, from the run's own one, and the training steps so far.
        self.register_buffer("state", torch.stack((torch.randint(_SEEDS - 1, ()), torch.zeros((), dtype=torch.long))))

    @contextmanager
    def step(self, device: torch.device, *, training: bool) -> Iterator[None]:
        """Draw inside this; everyone else's random numbers stay what they were.

        Args:
            device: Where tensors are drawn.
            training: Whether this is a step; a held-out loss takes the numbers of the next one without using it up.
        """
        seed, steps = self.state.tolist()
        # Processes that train together see different data and must not share their noise.
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((seed + _SPREAD * (steps + 1) + rank) % _SEEDS)
            yield
        if training:
            self.state[1] += 1
