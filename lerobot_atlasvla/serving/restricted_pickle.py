"""Read the pickles of LeRobot's robot client without running anything that they name.

A pickle is a program: it names functions, calls them, and changes objects. Here a name leads to one of the classes
below or nowhere, none of them does more than keep what it is given, and an array is made by us from bytes of the right
length. Torch's rebuilders are not among the names, because a tensor's storage arrives as a nested pickle
(``torch.storage._load_from_bytes``); the robot client sends numbers and numpy arrays.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .wire import MessageError

_HELPERS = "lerobot.async_inference.helpers"
# What protocols 4 and 5 need for plain data, arrays and dataclasses. Without the older PUT instructions no message can
# ask for a large memo, and without EXT and PERSID none can go past find_class.
_INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BYTEARRAY8"),
    *("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
}
# An observation of 30 joints and 4 cameras has about 250. It also bounds how deeply tuples can be nested: hashing a
# very deep one would end the process.
_MAX_INSTRUCTIONS = 10_000
_DTYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class _StandIn:
    """Takes the place of what a pickle names. A pickle can set the state only through this method."""

    def __setstate__(self, state: Any) -> None:
        raise MessageError(f"A pickle sets a state on {type(self).__name__}.")


class Message(_StandIn):
    """One of the robot client's dataclasses, with unchecked fields."""

    # Pickles make objects without calling __init__.
    fields: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise MessageError(f"{type(self).__name__} has a state of type {type(state).__name__}.")
        self.fields = state


class RemotePolicyConfig(Message):
    """Hold what the client asks for."""


class TimedObservation(Message):
    """Hold what the robot sees."""


class _DType(_StandIn):
    """``numpy.dtype`` of a number, little-endian."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False):
        if name not in _DTYPES:
            raise MessageError("A pickle has an array of something other than numbers.")
        self.name: str = name

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, ...); the rest describes structures.
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("|", "<"):
            raise MessageError("A pickle has an array in another byte order.")


class _NdArray(_StandIn):
    """The name ``numpy.ndarray``, which :class:`_Reconstruct` gets as an argument."""


class Array(_StandIn):
    """An array in the making.

    Attributes:
        value: The array; None before its content has come.
    """

    value: np.ndarray | None = None

    def fill(self, dtype: Any, shape: Any, order: str, content: Any) -> None:
        """Make the array, if the shape fits the content."""
        if type(dtype) is not _DType or type(content) not in (bytes, bytearray) or type(shape) is not tuple:
            raise MessageError("A pickle has a malformed array.")
        if order not in ("C", "F") or not all(type(length) is int and length >= 0 for length in shape):
            raise MessageError("A pickle has an array of a shape or order that is not known.")
        self.value = np.frombuffer(content, dtype.name).reshape(shape, order=order)


class _Reconstruct(Array):
    """``numpy._core.multiarray._reconstruct``: an empty array, filled by its state."""

    def __init__(self, kind: Any, shape: Any, typecode: Any):
        """Ignore the arguments, which are the same for every array."""

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise MessageError("A pickle has a malformed array.")
        _, shape, dtype, is_fortran, content = state
        self.fill(dtype, shape, "F" if is_fortran is True else "C", content)


class _FromBuffer(Array):
    """``numpy._core.numeric._frombuffer``: an array as protocol 5 has it."""

    def __init__(self, content: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None):
        self.fill(dtype, shape, order, content)


class _Scalar(Array):
    """Stands in for ``numpy._core.multiarray.scalar``, which makes a single number."""

    def __init__(self, dtype: Any, content: Any):
        self.fill(dtype, (), "C", content)


_STAND_INS: dict[tuple[str, str], type] = {
    (_HELPERS, "RemotePolicyConfig"): RemotePolicyConfig,
    (_HELPERS, "TimedObservation"): TimedObservation,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _NdArray,
    # numpy 1 had these modules without the underscore.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise MessageError(
                f"The pickle names {module_name}.{global_name}, which LeRobot's robot client does not send; refused."
            )
        return stand_in


def load_message[M: Message](pickled: bytes, kind: type[M]) -> M:
    """Read one message of the robot client.

    Args:
        pickled: The pickle, of bounded length; protocol 4 or 5.
        kind: Which message it must be.

    Returns:
        The message; its fields are plain data and :class:`Array`, and as unchecked as anything from the network.

    Raises:
        MessageError: For anything else, before anything that the pickle names is called.
    """
    _check_instructions(pickled)
    try:
        message = _Unpickler(io.BytesIO(pickled)).load()
    except MessageError:
        raise
    except Exception as error:  # bytes made up by a stranger make the unpickler, or a constructor, fail in any way
        raise MessageError(f"The pickle is malformed ({type(error).__name__}).") from error
    if type(message) is not kind:
        raise MessageError(f"The pickle must be a {kind.__name__}; got a {type(message).__name__}.")
    return message


def _check_instructions(pickled: bytes) -> None:
    """Refuse a pickle whose instructions are others than needed, too many, or longer than the pickle."""
    try:
        for count, (instruction, _, _) in enumerate(pickletools.genops(pickled)):
            if instruction.name not in _INSTRUCTIONS:
                raise MessageError(
                    f"The pickle has the instruction {instruction.name}, which LeRobot's robot client does not send "
                    "with Python's default protocol; refused."
                )
            if count >= _MAX_INSTRUCTIONS:
                raise MessageError(f"The pickle has more than {_MAX_INSTRUCTIONS} instructions.")
    except MessageError:
        raise
    except ValueError as error:
        raise MessageError("The message is not a pickle.") from error
