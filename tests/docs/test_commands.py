"""The commands of a guide are read by their own parsers, as typed; none of them does anything."""

import importlib
import re
import shlex
import tomllib

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig

import lerobot_atlasvla  # noqa: F401 - registers the policy
from lerobot_atlasvla.utils import cli
from tests.helpers import ROOT

PAGE = ROOT / "docs/moved_camera.md"


class ReadError(Exception):
    """The flags were read, and nothing else is to happen."""


def commands() -> list[str]:
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(python -m [^`]+ --[^`]+)`", PAGE.read_text())
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in [*lines, *inline] if " --" in line and not line.startswith("#")]


def read_train_flags(flags: list[str]) -> TrainPipelineConfig:
    (preset,) = [flag.partition("=")[2] for flag in flags if flag.startswith("--config_path=")]
    others = [flag for flag in flags if not flag.startswith("--config_path=")]
    return draccus.parse(TrainPipelineConfig, config_path=ROOT / preset, args=others)


@pytest.mark.parametrize("command", commands())
def test_a_command_is_read(command, monkeypatch):
    program, *flags = shlex.split(command)
    if program == "lerobot-train":
        config = read_train_flags(flags)
        assert config.policy.type == "atlasvla"
        return
    if program == "python":
        _, module, *flags = flags
    else:
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        module = scripts[program].removesuffix(":main")
    parse = cli.parse_flags

    def read(*arguments, **options):
        parse(*arguments, **options)
        raise ReadError

    monkeypatch.setattr(cli, "parse_flags", read)
    with pytest.raises(ReadError):
        importlib.import_module(module).main(flags)


def test_the_page_has_the_whole_way():
    programs = {command.split()[2] if command.startswith("python") else command.split()[0] for command in commands()}
    assert programs >= {"atlasvla-collect-geometry", "atlasvla-pretrain", "atlasvla-collect", "lerobot-train"}
    assert programs >= {"eval.camera_shift", "eval.plus", "eval.geometry_view", "eval.geometry_check"}
