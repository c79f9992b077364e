"""Help texts can be shown, are the comments of the flags, and never source code."""

import importlib
import re
import sys
import tomllib
from dataclasses import dataclass, field, fields

import pytest
from draccus.wrappers.docstring import get_attribute_docstring, get_preferred_help_text

from lerobot_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.utils.cli import run_command
from tests.helpers import ROOT

CODE = re.compile(
    r"\bself\.|\bdef \w|\b(asdict|field|dict)\(|^\s*@\w|\breturn [a-z_]+[.(]|->",
    re.MULTILINE,
)


def commands() -> dict[str, str]:
    """Commands as typed, and the modules of their ``main``."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = {name: target.removesuffix(":main") for name, target in scripts.items()}
    for file in sorted([*ROOT.glob("eval/*.py"), *ROOT.glob("eval/*/__main__.py")]):
        if file.name != "__init__.py":
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[f"python -m {module.removesuffix('.__main__')}"] = module
    for module in ("lerobot_atlasvla.commands.rename_columns", "lerobot_atlasvla.policy_server"):
        found[f"python -m {module}"] = module
    for module in ("eval.rollout.experts", "eval.benchmark.feature_cache_speed", "eval.benchmark.reading_speed"):
        found[f"python -m {module}"] = module
    found["python -m eval.benchmark.full_size.weights"] = "eval.benchmark.full_size.weights"
    return found


@pytest.mark.parametrize("command", commands())
def test_no_help_shows_source_code(command, monkeypatch, capsys):
    module = importlib.import_module(commands()[command])
    monkeypatch.setattr(module, "init_logging", lambda: None, raising=False)
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    try:
        status = module.main()
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr().out
    assert status in (0, None)
    assert "--help" in shown
    assert not (leak := CODE.search(shown)), shown[max(0, leak.start() - 300) : leak.end() + 100]


@dataclass
class Shared:
    """Flags of two commands."""

    # How many: 90 % of them are slow.
    # At least 1.
    steps: int = 1
    size: int = field(  # Of a picture: in pixels.
        default=2,
    )
    name: str = "#1"
    """What it is
    called."""


@dataclass
class Settings(Shared):
    """Flags of one command, which names those of both.

    size: in the docstring of the class
    """

    # Where to.
    folder: str = "here"

    @property
    def record(self) -> dict:
        """Return what is kept.

        steps: as in force
        """
        size: int = self.size * 2
        return {
            "steps": self.steps,
            # The key of all versions.
            "name": self.name,
            "size": size,
        }

    # Not about the last field.

    last: float = 0.5


def test_a_help_text_is_the_comment_of_its_field(capsys):
    with pytest.raises(SystemExit):
        run_command("tool", Settings, lambda settings: 0, ["--help"], errors=())
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for expected in (
        "--steps int How many: 90 % of them are slow. At least 1. (default: 1)",
        "--size int Of a picture: in pixels. (default: 2)",
        "--name str What it is called. (default: #1)",
        "--folder str Where to. (default: here)",
    ):
        assert expected in shown
    assert shown.endswith("--last float ")


def test_lerobots_help_of_the_policy_can_be_shown_and_is_no_source_code():
    for setting in fields(AtlasVLAConfig):
        text = get_preferred_help_text(get_attribute_docstring(AtlasVLAConfig, setting.name)) or ""
        assert not CODE.search(text), setting.name
        assert "%" not in text, f"argparse would put a value there: {setting.name}"
