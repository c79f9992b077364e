"""Compare the actions of an exported graph with PyTorch's for the same observations.

Shape suffixes: H and W in pixels, O observations, T chunk, A action.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from .exported_policy import ExportedPolicy
from .reference import Reference, state_sizes

TOLERANCE = 1e-4
OBSERVATIONS = 8
# An action's dimension that hardly moves in the training data is not measured by how little it moves.
_SMALLEST_STD = 1e-6


class Observation(NamedTuple):
    """One time step: RGB images (H, W, 3) uint8 by camera, the state (N,) as measured, and the instruction."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str


class Deviation(NamedTuple):
    """Measures how far the actions of an export are from PyTorch's.

    Attributes:
        observations: Over how many observations.
        largest: Largest absolute deviation, in the robot's units.
        largest_normalized: The same in the network's own units, before the normalization is undone.
        largest_in_std: The same in standard deviations of each dimension of the training data's actions; in the robot's
            units where these are not known.
        mean_in_std: The mean absolute deviation in these units.
    """

    observations: int
    largest: float
    largest_normalized: float
    largest_in_std: float
    mean_in_std: float


def observations(
    reference: Reference, cameras: Mapping[str, tuple[int, int]], instructions: Sequence[str]
) -> Iterator[Observation]:
    """Make up observations: noise and patches of color, states as the training data have them; each instruction once.

    Args:
        reference: The policy.
        cameras: Height and width by camera, pixels.
        instructions: What the policy is told, in turn.
    """
    random = np.random.default_rng(0)
    for number in range(max(OBSERVATIONS, len(instructions))):
        images = {key: _image(random, size, noise=number % 2 == 0) for key, size in cameras.items()}
        parts = [_state(random, reference, key, size) for key, size in state_sizes(reference.config).items()]
        state = np.concatenate([*parts, np.zeros(0)]).astype(np.float32)
        yield Observation(images, state, instructions[number % len(instructions)])


def _image(random: np.random.Generator, size: tuple[int, int], *, noise: bool) -> np.ndarray:
    if noise:
        return random.integers(0, 256, (*size, 3), np.uint8)
    # Eight by eight patches, as large as the image asks for.
    patches = random.integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = (np.arange(side) * 8 // side for side in size)
    return patches[rows][:, columns]


def _state(random: np.random.Generator, reference: Reference, key: str, size: int) -> np.ndarray:
    known = reference.statistics(key if key in reference.config.state_keys else OBS_STATE)
    drawn = random.standard_normal(size)
    if {"mean", "std"} <= known.keys():
        return known["mean"].double().numpy() + known["std"].double().numpy() * drawn
    return drawn


def compare(policy: ExportedPolicy, reference: Reference, seen: Sequence[Observation]) -> Deviation:
    """Let both predict a chunk for each observation."""
    from_graph, from_torch = [], []
    for images, state, instruction in seen:
        language = instruction if policy.about["instructions"] else reference.encode(instruction).numpy()
        from_graph.append(policy.predict_chunk(images, state, language))
        from_torch.append(reference.predict(images, state, instruction))
    off_OTA = np.abs(np.stack(from_graph).astype(np.float64) - np.stack(from_torch))
    in_std_OTA = off_OTA / action_std(reference)
    return Deviation(
        observations=len(seen),
        largest=float(off_OTA.max()),
        largest_normalized=float((off_OTA / _unit(reference)).max()),
        largest_in_std=float(in_std_OTA.max()),
        mean_in_std=float(in_std_OTA.mean()),
    )


def action_std(reference: Reference) -> np.ndarray:
    """Return the standard deviation (A,) of the training data's actions; ones where it is not known, or nearly zero."""
    known = reference.statistics(ACTION)
    if "std" not in known:
        return np.ones(reference.config.action_dim)
    std_A = known["std"].double().numpy()
    return np.where(std_A > _SMALLEST_STD, std_A, 1.0)


def _unit(reference: Reference) -> np.ndarray:
    """One unit of the network's output in the robot's units, (A,): normalizations are linear."""
    zero, one = (reference.to_robot(np.full(reference.config.action_dim, value, np.float32)) for value in (0, 1))
    return np.maximum(np.abs(one.astype(np.float64) - zero), _SMALLEST_STD)
