"""The commands of the guides are read by their own parsers, as typed; none of them does anything."""

import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import draccus
import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig

import lerobot_atlasvla  # noqa: F401 - registers the policy
from lerobot_atlasvla.utils import cli
from tests.helpers import ROOT

MOVED_CAMERA = ROOT / "docs/moved_camera.md"
START = (ROOT / "README.md", ROOT / "docs/evaluation.md")
PAGES = [*START, ROOT / "eval/README.md", ROOT / "examples/own_robot.md", *sorted(ROOT.glob("docs/*.md"))]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
LIKE_TRAINING = {"lerobot-train", "atlasvla-cache", "atlasvla-check"}
"""Programs that take the flags of ``lerobot-train``."""
STARTS = ("--config_path", "--policy.path")
"""What a training starts from: a preset, or a checkpoint."""
ARGPARSE = {"eval.compare", "eval.results_table"}
TO_FILL_IN = re.compile(r"\.\.\.|=(?!LORA\b)[A-Z]+(?=\s|$)|--resume")
"""Occurs in commands that can't be typed as they stand, or only after another."""


def words_of(block: str) -> list[list[str]]:
    """The words of each command of a block; a command ends with its line unless a quote or a backslash goes on."""
    commands, text = [], ""
    for line in block.splitlines():
        text += line.strip().removesuffix("\\") + " "
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            continue
        if line.endswith("\\"):
            continue
        commands.append([word for word in words if not re.match(r"[A-Z_]+=|export$", word)])
        text = ""
    return [words for words in commands if words]


def commands(page: Path) -> list[str]:
    text = page.read_text()
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(python -m [^`]+ --[^`]+)`", text)
    found = [shlex.join(words) for block in [*blocks, *inline] for words in words_of(block)]
    return [line for line in found if "--" in line and not TO_FILL_IN.search(line)]


def read_train_flags(flags: list[str]) -> TrainPipelineConfig:
    start = {name: flag.partition("=")[2] for flag in flags for name in STARTS if flag.startswith(f"{name}=")}
    others = [flag for flag in flags if not flag.startswith(tuple(f"{name}=" for name in start))]
    if "--policy.path" in start:
        # LeRobot takes a policy's flags out before it parses the rest, and reads them with the checkpoint's settings.
        of_policy = [flag.replace("--policy.", "--", 1) for flag in others if flag.startswith("--policy.")]
        others = [flag for flag in others if not flag.startswith("--policy.")]
        cfg = draccus.parse(TrainPipelineConfig, args=others)
        cfg.policy = PreTrainedConfig.from_pretrained(ROOT / start["--policy.path"], cli_overrides=of_policy)
        return cfg
    return draccus.parse(TrainPipelineConfig, config_path=ROOT / start["--config_path"], args=others)


def ours(page: Path) -> list[str]:
    """The commands with parsers of ours, or with flags of our policy."""
    modules = re.compile(rf"python -m (?!{'|'.join(ARGPARSE)})")
    return [line for line in commands(page) if line.split()[0] in LIKE_TRAINING | SCRIPTS.keys() or modules.match(line)]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, id=f"{page.stem}: {line}")
        for page in dict.fromkeys(PAGES)
        for line in dict.fromkeys(ours(page))
    ],
)
def test_a_command_is_read(command, monkeypatch):
    class ReadError(Exception):
        """The flags were read, and nothing else is to happen."""

    program, *flags = shlex.split(command)
    if program in LIKE_TRAINING:
        assert read_train_flags(flags).policy.type == "atlasvla"
        return
    if program == "python":
        _, module, *flags = flags
        if importlib.util.find_spec(module).submodule_search_locations:
            module += ".__main__"
    else:
        module = SCRIPTS[program].removesuffix(":main")
    parse = cli.parse_flags

    def read(*arguments, **options):
        parse(*arguments, **options)
        raise ReadError

    monkeypatch.setattr(cli, "parse_flags", read)
    with pytest.raises(ReadError):
        importlib.import_module(module).main(flags)


@pytest.mark.parametrize("page", dict.fromkeys(PAGES), ids=lambda page: page.stem)
def test_a_checkpoint_to_evaluate_is_in_the_repository_or_made_by_a_command(page):
    made = re.findall(r"--output_dir=(\S+)", "\n".join(line for one in (page, *START) for line in commands(one)))
    for checkpoint in re.findall(r"--checkpoint=(\S+)", "\n".join(commands(page))):
        assert (ROOT / checkpoint).exists() or any(f"{checkpoint}/".startswith(f"{folder}/") for folder in made)


def test_a_command_goes_on_over_quotes_and_backslashes():
    block = "# x\nA=1 a --b='{\n \"c\": 1}' \\\n  --d  # e\nexport F=2\ng\n"
    assert words_of(block) == [["a", '--b={ "c": 1}', "--d"], ["g"]]


def test_the_page_on_moved_cameras_has_the_whole_way():
    lines = commands(MOVED_CAMERA)
    programs = {line.split()[2] if line.startswith("python") else line.split()[0] for line in lines}
    assert programs >= {"atlasvla-collect-geometry", "atlasvla-pretrain", "atlasvla-collect", "lerobot-train"}
    assert programs >= {"eval.camera_shift", "eval.plus", "eval.geometry_view", "eval.geometry_check"}
