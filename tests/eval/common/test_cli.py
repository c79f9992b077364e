"""The command line of the evaluation: what its body gets, and which errors are one line."""

from dataclasses import dataclass

import pytest

from eval.common.cli import run_command
from eval.common.errors import EvalError, check_report_name


@dataclass
class Settings:
    """Flags."""

    # How many.
    steps: int = 1


def command(capsys, body, *flags: str, again: str = "") -> tuple[int, str]:
    status = run_command("eval.tool", Settings, body, flags, again=again)
    return status, capsys.readouterr().err


def test_the_body_gets_the_settings_and_the_command_as_typed(capsys):
    seen = []
    assert command(capsys, lambda cfg, typed: seen.append((cfg.steps, typed)), "--steps=3") == (0, "")
    assert seen == [(3, "python -m eval.tool --steps=3")]
    assert command(capsys, lambda cfg, typed: 1) == (1, "")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EvalError("--steps=0 is no number."), (1, "eval.tool: --steps=0 is no number.\n")),
        (OSError("disk full"), (1, "eval.tool: disk full. Again.\n")),
        (KeyboardInterrupt(), (130, "eval.tool: interrupted. Again.\n")),
    ],
)
def test_what_a_user_can_put_right_is_one_line(capsys, error, expected):
    def body(cfg, typed):
        raise error

    assert command(capsys, body, again="Again.") == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_a_report_s_name_is_that_of_one_folder(name):
    with pytest.raises(EvalError, match="--name="):
        check_report_name(name, "eval/results")
    check_report_name("mine.v2", "eval/results")
