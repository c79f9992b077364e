"""Environment variables under their present and their former names."""

import os

import pytest

from lerobot_atlasvla.libero.environment import FORMER_NAMES, read_switch, read_variable
from lerobot_atlasvla.libero.patches.deterministic_reset import ENV_DETERMINISTIC_RESET
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY, chosen_render_quality


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in (*FORMER_NAMES, *FORMER_NAMES.values()):
        # Set, then deleted: the undo then also removes what the code under test puts there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_former_name_is_heard_with_one_warning(monkeypatch, caplog):
    monkeypatch.setenv("ATLASVLA_LIBERO_LOOK", "plain")
    assert chosen_render_quality() == "plain"
    assert "ATLASVLA_LIBERO_LOOK is now called ATLASVLA_LIBERO_RENDER_QUALITY" in caplog.text
    caplog.clear()
    assert chosen_render_quality() == "plain"
    assert not caplog.text
    assert os.environ[ENV_RENDER_QUALITY] == "plain", "worker processes find it under its present name"


def test_the_present_name_has_precedence(monkeypatch, caplog):
    monkeypatch.setenv("ATLASVLA_LIBERO_LOOK", "plain")
    monkeypatch.setenv(ENV_RENDER_QUALITY, "fast")
    assert chosen_render_quality() == "fast"
    assert not caplog.text


def test_a_switch_is_0_or_1(monkeypatch):
    assert not read_switch(ENV_DETERMINISTIC_RESET)
    monkeypatch.setenv("ATLASVLA_LIBERO_REPEATABLE", "1")
    assert read_switch(ENV_DETERMINISTIC_RESET)
    monkeypatch.setenv(ENV_DETERMINISTIC_RESET, "yes")
    with pytest.raises(ValueError, match="ATLASVLA_LIBERO_DETERMINISTIC_RESET='yes' is not a switch; allowed: 0, 1"):
        read_switch(ENV_DETERMINISTIC_RESET)


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv(ENV_RENDER_QUALITY, "")
    assert read_variable(ENV_RENDER_QUALITY, "default") == "default"
