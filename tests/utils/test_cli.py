"""A command's exit status, and what it says, for each way in which it can end."""

from dataclasses import dataclass

import pytest

from lerobot_atlasvla.utils.cli import UsageError, exit_status, run_command


@dataclass
class Settings:
    """Flags."""

    # How many.
    steps: int = 1


class ToolError(Exception):
    pass


def end(error: BaseException | None):
    def work():
        if error:
            raise error

    return work


@pytest.mark.parametrize(
    ("error", "again", "expected"),
    [
        (None, "Again.", (0, "")),
        (ToolError("--steps=0 is too few."), "Again.", (1, "tool: --steps=0 is too few.\n")),
        (UsageError("no flag --step"), "Again.", (2, "tool: no flag --step (see --help)\n")),
        (OSError("disk full"), "Again.", (1, "tool: disk full. Again.\n")),
        (OSError("disk full"), None, (1, "tool: disk full\n")),
        (KeyboardInterrupt(), "Again.", (130, "tool: interrupted. Again.\n")),
        (KeyboardInterrupt(), "", (130, "tool: interrupted.\n")),
    ],
)
def test_what_a_user_can_put_right_is_one_line(error, again, expected, capsys):
    status = exit_status("tool", end(error), errors=(ToolError, OSError), again=again)
    assert (status, capsys.readouterr().err) == expected


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("unexpected"), KeyboardInterrupt()])
def test_everything_else_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        exit_status("tool", end(error), errors=ToolError)


def test_a_flag_that_does_not_parse_has_its_own_status(capsys):
    seen = []
    assert run_command("tool", Settings, seen.append, ["--steps=3"], errors=ToolError) == 0
    assert run_command("tool", Settings, seen.append, ["--steps=many"], errors=ToolError) == 2
    assert seen == [Settings(3)]
    message = capsys.readouterr().err
    assert message.startswith("tool: ")
    assert message.endswith("(see --help)\n")
