"""Types of settings and records: whether a value is of one, and what that is in words."""

from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_DESCRIPTIONS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


def described(kind: Any) -> str:
    """Return what values of a type are, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return "anything"
    if origin in (Union, UnionType):
        return " or ".join(described(one) for one in args)
    if origin is tuple:
        count = "any number of" if Ellipsis in args else len(args)
        return f"{count} values, each {described(args[0])}"
    if origin is list:
        example = "[1, 2]" if args[0] in (int, float) else "[a, b]"
        return f"a list such as '{example}', each entry {described(args[0])}"
    if origin is dict:
        return f"a mapping such as '{{a: b}}', each value {described(args[1])}"
    words = (words for known, words in _DESCRIPTIONS.items() if isinstance(kind, type) and issubclass(kind, known))
    return next(words, str(kind).replace("typing.", ""))


def is_of(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type; true and false are no numbers, a text is a path and may name a choice."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(is_of(value, one) for one in args)
    if origin in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        kinds = args if origin is tuple and Ellipsis not in args else args[:1] * len(value)
        return len(value) == len(kinds) and all(map(is_of, value, kinds))
    if origin is dict:
        return isinstance(value, Mapping) and all(is_of(k, args[0]) and is_of(v, args[1]) for k, v in value.items())
    for number, numbers in ((int, Integral), (float, Real)):
        if issubclass(kind, number) and kind is not bool:
            return isinstance(value, numbers) and not isinstance(value, bool)
    if issubclass(kind, str) and issubclass(kind, Enum):  # its values too, as in JSON
        return isinstance(value, str)
    return isinstance(value, str | Path if kind is Path else kind)
