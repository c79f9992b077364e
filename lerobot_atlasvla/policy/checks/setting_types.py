"""Types of settings that are read strictly from flags and files: draccus makes 1 of ``true``, and 1.0 as well."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import draccus

from .types import ConfigError

if TYPE_CHECKING:
    Count = int
    Number = float
else:

    class Count(int):
        """Marks a setting that must be a whole number; ``true`` is refused, which Python takes for 1."""

    class Number(float):
        """Marks a setting that must be a number; ``true`` is refused, which Python takes for 1."""


# draccus puts its registry on the function.
_decode: Any = draccus.decode


def _strictly(kind: type, words: str) -> Any:
    def read(raw: Any, path: Sequence[str] = ()) -> Any:
        if isinstance(raw, bool):
            name = ".".join(path)
            raise ConfigError(f"{name} must be {words}, got {str(raw).lower()} (--policy.{path[0] if path else name}).")
        return _decode.dispatch(kind).func(raw, path)

    return read


_decode.register(Count, _strictly(int, "a whole number"))
_decode.register(Number, _strictly(float, "a number"))
