"""Real-time chunking: LeRobot's processor from the policy's settings, and what is said where it can't work."""

from typing import Any

import draccus
from draccus.utils import ParsingError
from torch import Tensor

NEEDS_FLOW = (
    "Real-time chunking needs the flow head, which can be guided while it denoises; this policy has head=l1. Train one "
    "with --policy.head=flow, or roll this one out with --inference.type=sync."
)
NOT_STEP_BY_STEP = (
    "select_action executes one chunk after the other; real-time chunking merges them and calls predict_action_chunk "
    "itself (lerobot-rollout --inference.type=rtc). Unset --policy.rtc_config."
)
_MOST_GUIDANCE = 1e4
_LONGEST_HORIZON = 100_000


def left_over_of(left_over: Tensor, environments: int, chunk_size: int) -> Tensor:
    """Return what is left of the previous chunk, no longer than a chunk: LeRobot fills it up to the execution horizon.

    The rest of one chunk is refused for several robots, which LeRobot's processor would all lead the same way.

    Args:
        left_over: What is left of the previous chunk, (T, A), or (B, T, A).
        environments: How many are observed now.
        chunk_size: Steps of a chunk.

    Raises:
        ValueError: If it is of another number of them.
    """
    chunks = 1 if left_over.ndim == 2 else len(left_over)
    if chunks != environments:
        raise ValueError(
            f"prev_chunk_left_over is the rest of {chunks} chunk(s), and the batch is of {environments} environments. "
            "Give one for each, (B, T, A), or none when an episode starts."
        )
    return left_over[..., :chunk_size, :]


def make_processor(settings: Any) -> Any:
    """Build LeRobot's RTCProcessor, or None without settings.

    Args:
        settings: The policy's ``rtc_config``: an RTCConfig, which lerobot-rollout sets, or what JSON holds of one.

    Raises:
        ValueError: If ``rtc_config`` names or holds what LeRobot's RTCConfig does not.
    """
    if settings is None:
        return None
    # Not at import: LeRobot's policies take seconds to import, and a configuration must not need them.
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    if isinstance(settings, dict):
        try:
            settings = draccus.decode(RTCConfig, settings)
        except ParsingError as error:
            raise ValueError(
                f"rtc_config {settings} can't be read: {error} {error.__cause__ or ''} "
                f"It may hold {list(RTCConfig.__dataclass_fields__)} (--policy.rtc_config)."
            ) from error
    if not (0 < settings.max_guidance_weight <= _MOST_GUIDANCE and 1 <= settings.execution_horizon <= _LONGEST_HORIZON):
        raise ValueError(
            f"rtc_config must have max_guidance_weight in (0, {_MOST_GUIDANCE:g}] and execution_horizon from 1 to "
            f"{_LONGEST_HORIZON}, got {settings.max_guidance_weight} and {settings.execution_horizon} "
            "(--policy.rtc_config)."
        )
    return RTCProcessor(settings)
