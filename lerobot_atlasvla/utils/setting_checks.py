"""Checks of settings that several commands share.

Each raises the error class that it is given, and names the first flag that is wrong, its value and what is allowed.
"""

from .paths import pattern_in

type Error = type[Exception]


def check_at_least(error: Error, settings: object, **minimums: int) -> None:
    """Refuse numbers that are too small; None is allowed."""
    for flag, least in minimums.items():
        value = getattr(settings, flag)
        if value is not None and not value >= least:
            raise error(f"--{flag}={value} must be at least {least}.")


def check_at_most(error: Error, settings: object, **maximums: int) -> None:
    """Refuse numbers that are too large, slips that would fill the memory; None is allowed."""
    for flag, most in maximums.items():
        value = getattr(settings, flag)
        if value is not None and not value <= most:
            raise error(f"--{flag}={value} must be at most {most}.")


def check_in_range(error: Error, settings: object, **limits: tuple[int, int]) -> None:
    """Refuse numbers that do not lie between two limits, which are allowed."""
    for flag, (least, most) in limits.items():
        value = getattr(settings, flag)
        if not least <= value <= most:
            raise error(f"--{flag}={value} must lie in {least} .. {most}.")


def check_names_folder(error: Error, settings: object, flag: str) -> None:
    """Refuse a path without a name."""
    path = getattr(settings, flag)
    if not path.name and not path.is_absolute():
        raise error(f"--{flag}={str(path)!r} must name a folder.")


def check_dataset_root(error: Error, settings: object, flag: str = "root") -> None:
    """Refuse a path without a name, or one that LeRobot's reader of datasets takes for a pattern."""
    check_names_folder(error, settings, flag)
    if problem := pattern_in(getattr(settings, flag), f"--{flag}"):
        raise error(problem)
