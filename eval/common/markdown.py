"""Markdown that the reports share: tables, lists of facts, and the sections on commands and versions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LABELS = {"look": "render quality"}
"""What reports call a fact, where the key that run folders of all versions have for it is another."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    rules = "|".join("---" for _ in head)
    return [f"| {' | '.join(head)} |", f"|{rules}|", *(f"| {' | '.join(row)} |" for row in rows)]


def table_of(rows: Sequence[Any], *columns: tuple[str, Callable[[Any], str]]) -> list[str]:
    """Return the lines of a Markdown table with a row for each of ``rows``; a column is its head and what it shows."""
    return table([head for head, _ in columns], [[show(row) for _, show in columns] for row in rows])


def facts(values: Mapping[str, Any]) -> list[str]:
    """Return one bullet per value that is known; a long text stays on its bullet."""
    known = {name: value for name, value in values.items() if value not in (None, "")}
    return [f"- {_LABELS.get(name, name)}: {_words(value)}" for name, value in known.items()]


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} -> {of}" for key, of in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(one) for one in value)
    return " ".join(str(value).split())


def notes(text: str) -> list[str]:
    """Return the section of remarks by hand, which are inserted as they are; nothing without any."""
    return ["## Notes", "", text.rstrip("\n"), ""] if text.strip() else []


def origin(commands: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the last two sections of a report: the commands, a bullet each, and the versions and the machine."""
    lines = ["## Commands", "", *(f"- {command}" for command in commands), ""]
    return [*lines, "## Versions and machine", "", *(f"- {key}: {value}" for key, value in environment.items()), ""]
