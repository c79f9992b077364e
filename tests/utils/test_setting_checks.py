"""Settings out of range are named with the flag, the value and what is allowed."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from lerobot_atlasvla.utils.setting_checks import check_at_least, check_at_most, check_dataset_root, check_in_range

NAN = float("nan")


@dataclass
class Settings:
    steps: float | None = 3
    root: Path = Path("a")


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (lambda s: check_at_least(KeyError, s, steps=4), 3, "--steps=3 must be at least 4."),
        (lambda s: check_at_least(KeyError, s, steps=4), NAN, "--steps=nan must be at least 4."),
        (lambda s: check_at_most(KeyError, s, steps=4), 5, "--steps=5 must be at most 4."),
        (lambda s: check_at_most(KeyError, s, steps=4), NAN, "--steps=nan must be at most 4."),
        (lambda s: check_in_range(KeyError, s, steps=(0, 4)), -0.5, "--steps=-0.5 must lie in 0 .. 4."),
        (lambda s: check_in_range(KeyError, s, steps=(0, 4)), 5, "--steps=5 must lie in 0 .. 4."),
        (lambda s: check_in_range(KeyError, s, steps=(0, 4)), NAN, "--steps=nan must lie in 0 .. 4."),
    ],
)
def test_numbers_out_of_range_are_named(check, value, message):
    with pytest.raises(KeyError) as raised:
        check(Settings(value))
    assert raised.value.args == (message,)
    check(Settings(4))


def test_what_was_not_given_has_no_limits():
    check_at_least(KeyError, Settings(None), steps=4)
    check_at_most(KeyError, Settings(None), steps=4)


@pytest.mark.parametrize(("root", "message"), [("", "--root='.' must name a folder."), ("a*b", "--root=a*b has * in")])
def test_a_dataset_s_root_is_a_folder_that_can_be_read_back(root, message):
    with pytest.raises(KeyError) as raised:
        check_dataset_root(KeyError, Settings(root=Path(root)))
    assert raised.value.args[0].startswith(message)
    check_dataset_root(KeyError, Settings(root=Path("/")))
