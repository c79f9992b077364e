"""Reliance: how much a policy's actions and its loss change when a part of its input is another episode's.

A part that can be swapped without any change is not used. For AtlasVLA policies the geometry blocks are a part, too:
they are replaced by noise, or removed. Any LeRobot policy that predicts a chunk from a batch can be measured.

Shape suffixes: E measured episodes, B frames, T executed actions, A action dimensions.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from lerobot.configs.types import FeatureType
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights.peft import without_adapter

from .geometry_blocks import blocks_as_noise, blocks_removed
from .paired_frames import PairedFrames

IMAGES, STATE, INSTRUCTION, EVERYTHING = "images", "state", "instruction", "everything"
BLOCKS_AS_NOISE, BLOCKS_REMOVED = "geometry blocks as noise", "geometry blocks removed"
ORDER = (IMAGES, STATE, INSTRUCTION, EVERYTHING)
ONE_INSTRUCTION = "one instruction only: not measurable"
_TASK_KEYS = ("task", "task_index")


@dataclass(frozen=True)
class PartReliance:
    """Change of actions and loss when one part is replaced.

    Attributes:
        name: ``images`` (all of them), the key of one view, ``state``, ``instruction``, ``everything`` (the three
            together), ``geometry blocks as noise`` or ``geometry blocks removed``.
        action_change_E: Mean absolute change of the executed actions in units of the dataset actions' standard
            deviation, per episode; None if it was not measured.
        loss_rise_E: Rise of the policy's loss, per episode; None if it was not measured or the policy offers no loss.
        reason: Why it was not measured; empty if it was.
    """

    name: str
    action_change_E: tuple[float, ...] | None = None
    loss_rise_E: tuple[float, ...] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Reliance:
    """All parts of a policy, measured on the same frames.

    Attributes:
        parts: One entry per part.
        loss_E: Loss on the unchanged frames, per episode; None if the policy offers none.
        n_action_steps: Executed actions T per chunk.
        action_dimensions: Indices of the action dimensions that took part: those that vary in the dataset.
    """

    parts: tuple[PartReliance, ...]
    loss_E: tuple[float, ...] | None
    n_action_steps: int
    action_dimensions: tuple[int, ...]


class _Response(NamedTuple):
    actions_BTA: Tensor
    """In standard deviations, dimensions that do not vary left out."""
    loss: float | None


class _Swap(NamedTuple):
    name: str
    keys: tuple[str, ...]
    instruction: bool = False

    def apply(self, own: dict[str, Any], other: dict[str, Any], instruction: str | None) -> dict[str, Any]:
        """The frames with the part of the other ones; a new dictionary."""
        taken = {key for name in self.keys for key in (name, f"{name}_is_pad") if key in own}
        if self.name == EVERYTHING:
            # All of one frame, so that what belongs together stays together.
            taken |= {key for key in _TASK_KEYS if key in own}
        swapped = own | {key: other[key] for key in taken}
        if self.instruction:
            swapped |= {"task": [instruction] * len(own["task"])}
            # The number of an instruction would say what the text does not.
            swapped.pop("task_index", None)
        return swapped


def measure(
    policy: Any,
    preprocess: Any,
    postprocess: Any,
    frames: PairedFrames,
    *,
    action_std_A: Tensor,
    seed: int = 1000,
    batch_size: int = 32,
) -> Reliance:
    """Measure what a policy relies on.

    The executed actions are the first ``n_action_steps`` of ``predict_action_chunk``, postprocessed. PyTorch's random
    numbers start from the same seed for a frame and for its changed version, so a policy that draws some gives the
    same actions for the same input.

    Args:
        policy: A LeRobot policy, with or without an adapter (PEFT) around it. Its mode and weights are as before
            afterward.
        preprocess: Its preprocessor.
        postprocess: Its postprocessor.
        frames: The frames, and what to replace their parts by.
        action_std_A: Standard deviation of the dataset's actions.
        seed: Seed of the policy's random numbers and of the noise in the geometry blocks.
        batch_size: Frames of an episode that are processed at a time.

    Raises:
        ValueError: If no action varies, or the policy does not predict the dataset's actions.
    """
    whole = without_adapter(policy)
    kept = torch.nonzero(action_std_A > 1e-6).flatten()
    if not len(kept):
        raise ValueError(f"No action of the dataset varies (standard deviations {action_std_A.tolist()}).")
    subject = _Subject(whole, preprocess, postprocess, action_std_A, kept, seed, batch_size)
    was_training = whole.training
    whole.eval()
    try:
        plain, parts = _measure_swaps(subject, whole, preprocess, frames)
        if isinstance(whole, AtlasVLAPolicy):
            parts += [
                _measure_blocks(subject, BLOCKS_AS_NOISE, partial(blocks_as_noise, whole, seed), plain, frames),
                _measure_blocks(subject, BLOCKS_REMOVED, partial(blocks_removed, whole), plain, frames),
            ]
    finally:
        whole.train(was_training)
    return Reliance(
        tuple(parts),
        _losses(plain),
        plain[0].actions_BTA.shape[1],
        tuple(kept.tolist()),
    )


def swaps_of(config: Any, preprocess: Any, keys: Iterable[str]) -> tuple[list[_Swap], list[PartReliance]]:
    """Return the swaps that a policy and a dataset allow, and the parts that they don't.

    Args:
        config: The policy's configuration.
        preprocess: The policy's preprocessor; it may rename keys.
        keys: Keys of the dataset's frames.
    """
    renamed = renamed_keys(preprocess)
    features = config.input_features or {}
    kinds = {key: features[renamed.get(key, key)].type for key in keys if renamed.get(key, key) in features}
    views = tuple(key for key, kind in kinds.items() if kind is FeatureType.VISUAL)
    states = tuple(key for key, kind in kinds.items() if kind in (FeatureType.STATE, FeatureType.ENV))
    swaps, missing = [], []
    if views:
        swaps.append(_Swap(IMAGES, views))
        swaps += [_Swap(view, (view,)) for view in views if len(views) > 1]
    else:
        missing.append(PartReliance(IMAGES, reason="the policy reads no image"))
    if states:
        swaps.append(_Swap(STATE, states))
    else:
        missing.append(PartReliance(STATE, reason="the policy reads no state"))
    return [*swaps, _Swap(INSTRUCTION, (), instruction=True), _Swap(EVERYTHING, (*views, *states))], missing


def renamed_keys(preprocess: Any) -> dict[str, str]:
    """Map keys of the data to those of the policy, where its preprocessor renames them (LeRobot's ``rename_map``)."""
    return {old: new for step in preprocess.steps for old, new in getattr(step, "rename_map", {}).items()}


class _Subject:
    """A policy with its processors: raw frames in, actions in standard deviations and the loss out."""

    def __init__(
        self,
        policy: Any,
        preprocess: Any,
        postprocess: Any,
        action_std_A: Tensor,
        kept: Tensor,
        seed: int,
        batch_size: int,
    ):
        self._policy, self._preprocess, self._postprocess = policy, preprocess, postprocess
        self._std_A, self._kept = action_std_A, kept
        self._seed, self._batch_size = seed, batch_size

    @torch.no_grad()
    def respond(self, frames: dict[str, Any], place: int) -> _Response:
        """Act on the frames of one episode; ``place`` is the episode's, and gives the random numbers."""
        count = len(frames["task"])
        actions: list[Tensor] = []
        losses: list[float | None] = []
        for start in range(0, count, self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = self._preprocess({key: values[rows] for key, values in frames.items()})
            with torch.random.fork_rng(_gpus(self._policy)):
                actions.append(self._act(dict(batch), self._seed + place))
                losses.append(self._loss(dict(batch), self._seed + place))
        known = [loss * len(part) / count for loss, part in zip(losses, actions, strict=True) if loss is not None]
        return _Response(torch.cat(actions), sum(known) if len(known) == len(losses) else None)

    def _loss(self, batch: dict[str, Any], seed: int) -> float | None:
        torch.manual_seed(seed)
        try:
            # A batch is of one episode, so the mean over it is all that is needed, which every policy can give.
            return float(self._policy.forward(batch)[0])
        except NotImplementedError:
            return None

    def _act(self, batch: dict[str, Any], seed: int) -> Tensor:
        torch.manual_seed(seed)
        # The demonstrated actions are what is to be predicted.
        observation = {key: value for key, value in batch.items() if not key.startswith(ACTION)}
        # Some policies keep a history of what they have seen.
        self._policy.reset()
        chunk_BTA = self._policy.predict_action_chunk(observation)
        chunk_BTA = chunk_BTA[:, : getattr(self._policy.config, "n_action_steps", None)]
        # One step at a time, as in a robot loop: not every postprocessor takes a chunk.
        actions_BTA = torch.stack([self._postprocess(action_BA).float().cpu() for action_BA in chunk_BTA.unbind(1)], 1)
        if actions_BTA.shape[-1] != len(self._std_A):
            raise ValueError(
                f"The policy's actions have {actions_BTA.shape[-1]} dimensions, the dataset's {len(self._std_A)}."
            )
        return actions_BTA[..., self._kept] / self._std_A[self._kept]


def _measure_swaps(
    subject: _Subject, policy: Any, preprocess: Any, frames: PairedFrames
) -> tuple[list[_Response], list[PartReliance]]:
    swaps, missing = swaps_of(policy.config, preprocess, frames.own(0))
    instructions = [frames.other_instruction(place) for place in range(len(frames))]
    if None in instructions:
        swaps = [swap for swap in swaps if not swap.instruction]
        missing.append(PartReliance(INSTRUCTION, reason=ONE_INSTRUCTION))
    plain: list[_Response] = []
    changed: dict[str, list[_Response]] = {swap.name: [] for swap in swaps}
    for place, instruction in enumerate(instructions):
        own, other = frames.own(place), frames.other(place)
        plain.append(subject.respond(own, place))
        for swap in swaps:
            changed[swap.name].append(subject.respond(swap.apply(own, other, instruction), place))
    parts = [_compare(name, plain, responses) for name, responses in changed.items()]
    # In a fixed order, views behind the images that they are of.
    parts = sorted([*parts, *missing], key=lambda part: ORDER.index(part.name) if part.name in ORDER else 0.5)
    return plain, parts


def _measure_blocks(
    subject: _Subject,
    name: str,
    change: Callable[[], AbstractContextManager[None]],
    plain: Sequence[_Response],
    frames: PairedFrames,
) -> PartReliance:
    try:
        changed = change()
    except ValueError as error:
        return PartReliance(name, reason=str(error))
    with changed:
        responses = [subject.respond(frames.own(place), place) for place in range(len(frames))]
    return _compare(name, plain, responses)


def _compare(name: str, plain: Sequence[_Response], changed: Sequence[_Response]) -> PartReliance:
    moved = [after.actions_BTA - before.actions_BTA for before, after in zip(plain, changed, strict=True)]
    low, high = _losses(plain), _losses(changed)
    rises = None if low is None or high is None else tuple(b - a for a, b in zip(low, high, strict=True))
    return PartReliance(name, tuple(change.abs().mean().item() for change in moved), rises)


def _losses(responses: Sequence[_Response]) -> tuple[float, ...] | None:
    known = tuple(response.loss for response in responses if response.loss is not None)
    return known if len(known) == len(responses) else None


def _gpus(policy: Any) -> list[torch.device]:
    devices = {parameter.device for parameter in policy.parameters()}
    return [device for device in devices if device.type == "cuda"]
