"""The bytes between client and server: tensors as safetensors, which holds nothing else and so can't run code."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

SERVICE = "atlasvla.PolicyServer"
# gRPC metadata of a request.
SESSION_KEY = "atlasvla-session"
TOKEN_KEY = "authorization"
# The instruction travels among the tensors, as UTF-8.
TASK_KEY = "task"
# A safetensors header describes each tensor in about 100 bytes; a longer one would only fill memory.
_MAX_HEADER_BYTES = 64 * 1024


class MessageError(ValueError):
    """A message can't be read; says why."""


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays of any shape as one message."""
    # safetensors reads memory as if every array were contiguous.
    return save({key: np.ascontiguousarray(value) for key, value in tensors.items()})


def unpack(message: bytes) -> dict[str, np.ndarray]:
    """Read what :func:`pack` wrote; shapes that do not fit the message's own length are refused.

    Raises:
        MessageError: If it is anything else.
    """
    header_bytes = int.from_bytes(message[:8], "little")
    if len(message) < 8 or header_bytes > min(len(message) - 8, _MAX_HEADER_BYTES):
        raise MessageError(f"The message of {len(message)} bytes is not in the safetensors format.")
    try:
        return load(message)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise MessageError(f"The message is not in the safetensors format: {error}") from error


def pack_json(value: Any) -> bytes:
    """Write plain data, as in the answer that opens a session."""
    return json.dumps(value).encode()


def unpack_json(message: bytes) -> Any:
    """Read plain data as :func:`pack_json` wrote them.

    Raises:
        MessageError: If it is anything else.
    """
    try:
        return json.loads(message)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"The message is not JSON: {error}") from error
