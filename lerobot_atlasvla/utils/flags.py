"""Flags of a command as they were typed: text stays text, numbers are numbers, and what can't be is named.

draccus 0.11 reads every flag as YAML: ``--checkpoint=000600`` is 384, ``--name=no`` is False, ``--root=~`` and
``--suite=null`` are nothing at all, true is a number of episodes, and ``--title='a: b'`` ends in a traceback. It also
takes text that begins with "include" for the name of a file to read. Here only lists, mappings and files are YAML, and
all that is in them is read by the types of the settings.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from draccus.argparsing import ArgumentParser
from draccus.cfgparsing import load_config
from draccus.utils import CONFIG_ARG, ParsingError

from .cli_help import help_of_fields
from .kinds import described

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parse_flags(config: type[Any], arguments: Sequence[str], program: str) -> Any:
    """Return the settings that a command line asks for.

    Args:
        config: Dataclass of the flags, none of them a dataclass itself.
        arguments: As typed: ``--flag=value``, ``--flag value``, or ``--config_path`` with a YAML, JSON or TOML file.
        program: How the command is typed, for its help.

    Raises:
        ParsingError: Naming the flag, its value and what is allowed, or the flags that are missing.
        OSError: If a file of settings can't be read.
    """
    with help_of_fields():
        return _Parser(config_class=config, prog=program).parse_args(arguments)


class _Parser(ArgumentParser):
    """draccus's parser with its help, and another reading of values."""

    def _postprocessing(self, parsed_args: Any) -> Any:
        kinds = get_type_hints(self.config_class)
        given = dict(vars(parsed_args))
        file = given.pop(CONFIG_ARG, None)
        found = {} if file is None else _read_file(Path(file), kinds)
        found |= {name: _of_type(name, text, kinds[name], text) for name, text in given.items()}
        asked = [field for field in fields(self.config_class) if field.init]
        missing = [
            f"--{field.name}"
            for field in asked
            if field.name not in found and field.default is MISSING and field.default_factory is MISSING
        ]
        if missing:
            raise ParsingError(f"{' and '.join(missing)} must be given")
        return self.config_class(**found)


def _read_file(file: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    with file.open(encoding="utf-8") as stream:
        try:
            content = load_config(stream, file=file)
        except (ParsingError, UnicodeDecodeError) as error:
            raise ParsingError(f"--{CONFIG_ARG}={file} can't be read: {_line(error.__cause__ or error)}") from error
    if not isinstance(content, dict):
        raise ParsingError(f"--{CONFIG_ARG}={file} must hold settings by name, got {str(content)[:100]!r}")
    if unknown := [name for name in content if name not in kinds]:
        raise ParsingError(f"--{CONFIG_ARG}={file} has the setting {unknown[0]!r}; allowed: {', '.join(kinds)}")
    return {name: _of_type(name, value, kinds[name], value) for name, value in content.items()}


def _of_type(name: str, value: Any, kind: Any, shown: Any) -> Any:
    try:
        if isinstance(value, str):
            value = _structure(value, kind)
        return _converted(value, kind)
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        because = f" ({_line(error)})" if isinstance(error, yaml.YAMLError) else ""
        raise ParsingError(f"--{name}={str(shown)[:200]} must be {described(kind)}{because}") from error


def _structure(text: str, kind: Any) -> Any:
    """Return the list or mapping that a text is where one is wanted, without the quotes of a quoted text otherwise."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    structure = {"[": list, "{": dict}.get(text.strip()[:1])
    if structure is not None and any(get_origin(one) is structure for one in kinds):
        # With the base loader, all that is inside is text, to be read by its own type; anything has none.
        return yaml.load(text, yaml.SafeLoader if "typing.Any" in str(kind) else yaml.BaseLoader)
    if text[:1] in ("'", '"'):
        with suppress(yaml.YAMLError):  # then the quotes belong to the text
            return yaml.load(text, yaml.BaseLoader)
    return text


def _converted(value: Any, kind: Any) -> Any:
    """Return a value as one of a type.

    Raises:
        ValueError: If it can't be one.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _first_that_fits(value, args)
    if origin is list and isinstance(value, list):
        return [_converted(one, args[0]) for one in value]
    if origin is dict and isinstance(value, dict):
        return {_converted(key, args[0]): _converted(one, args[1]) for key, one in value.items()}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and str(value).lower() in _WORDS:
        return _WORDS[str(value).lower()]
    if kind is int and (isinstance(value, str) or (number and not isinstance(value, float))):
        return int(value)
    if kind is float and (isinstance(value, str) or number) and isfinite(float(value)):
        return float(value)
    if kind is str and (isinstance(value, str) or number):
        return str(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is NoneType and value in (None, "", "null"):
        return None
    raise ValueError(f"{value!r} is no {kind}")


def _first_that_fits(value: Any, kinds: Sequence[Any]) -> Any:
    # Nothing first: as text, null would be a name.
    for kind in sorted(kinds, key=lambda one: one is not NoneType):
        try:
            return _converted(value, kind)
        except ValueError:
            continue
    if NoneType in kinds and value == "None":  # as our own messages name it
        return None
    raise ValueError(f"{value!r} is none of {kinds}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
