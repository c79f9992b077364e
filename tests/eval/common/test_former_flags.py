"""A flag under its former name still works, with one warning; a command that never had it refuses it as before."""

from dataclasses import dataclass

import pytest

from eval.common.cli import run_command
from eval.common.former_flags import flag_of


@dataclass
class Settings:
    """Flags of a command that renders."""

    # How the scene is rendered.
    render_quality: str = "default"


@dataclass
class Others:
    """Flags of a command that does not."""

    # How many.
    steps: int = 1


@pytest.mark.parametrize("typed", [["--look=plain"], ["--look", "plain"], ["--look=fast", "--look=plain"]])
def test_a_former_flag_is_read_with_one_warning(typed, caplog):
    seen = []
    assert run_command("eval.tool", Settings, lambda cfg, command: seen.append((cfg, command)), typed) == 0
    ((cfg, command),) = seen
    assert cfg.render_quality == "plain"
    assert "--look" not in command
    assert [record.getMessage() for record in caplog.records] == [
        "--look is now called --render_quality; version 0.2 refuses the old name."
    ]


def test_the_present_flag_is_read_without_a_warning(caplog):
    seen = []
    flags = ["--render_quality=--look"]
    assert run_command("eval.tool", Settings, lambda cfg, command: seen.append(cfg), flags) == 0
    assert seen == [Settings("--look")]
    assert not caplog.records


def test_a_command_without_the_flag_refuses_it(capsys, caplog):
    with pytest.raises(SystemExit) as stop:
        run_command("eval.tool", Others, lambda cfg, command: 0, ["--look=plain"])
    assert stop.value.code == 2
    assert "--look=plain" in capsys.readouterr().err
    assert not caplog.records


def test_recorded_settings_are_named_by_their_flag():
    assert (flag_of("look"), flag_of("image_size")) == ("render_quality", "image_size")
