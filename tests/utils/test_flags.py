"""Flags are read as typed: text stays text, and what is of another type is refused by its name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from draccus.utils import ParsingError

from lerobot_atlasvla.utils.flags import parse_flags


@dataclass(kw_only=True)
class Settings:
    """Of a command."""

    # Where.
    root: Path = Path("data")
    count: int = 1
    share: float = 0.5
    quick: bool = False
    name: str = ""
    note: Path | None = None
    most: int | None = None
    ids: list[int] | None = None
    labels: list[str] = field(default_factory=list)
    runs: list[str] | str = ""
    sizes: dict[str, list[int]] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Needs:
    """Of a command that has to be told something."""

    checkpoint: Path
    output_dir: Path
    seed: int = 0


def read(*flags: str) -> Settings:
    return parse_flags(Settings, flags, "tool")


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--root=000600", "root", Path("000600")),
        ("--root=run[2", "root", Path("run[2")),
        ("--root=null", "root", Path("null")),
        ("--root=~/out", "root", Path("~/out")),
        ("--note=null", "note", None),
        ("--note=", "note", None),
        ("--note=no", "note", Path("no")),
        ("--name=007", "name", "007"),
        ("--name=no", "name", "no"),
        ("--name=include_wrist", "name", "include_wrist"),
        ("--name=Fast render: the same", "name", "Fast render: the same"),
        ('--name="Fast render: the same"', "name", "Fast render: the same"),
        ('--name="a" and "b"', "name", '"a" and "b"'),
        ("--name={a}", "name", "{a}"),
        ("--count=010", "count", 10),
        ("--share=1e-3", "share", 1e-3),
        ("--quick=true", "quick", True),
        ("--most=null", "most", None),
        ("--most=None", "most", None),
        ("--ids=[0, 3]", "ids", [0, 3]),
        ("--ids=null", "ids", None),
        ("--labels=[007, no, 1.50, null]", "labels", ["007", "no", "1.50", "null"]),
        ('--labels=["a: b", "c"]', "labels", ["a: b", "c"]),
        ("--runs=a", "runs", "a"),
        ("--runs=[a, b]", "runs", ["a", "b"]),
        ('--sizes={"front": [480, 640]}', "sizes", {"front": [480, 640]}),
        ('--overrides={"act": {"chunk_size": 20}}', "overrides", {"act": {"chunk_size": 20}}),
    ],
)
def test_a_flag_means_what_was_typed(flag, name, value):
    assert getattr(read(flag), name) == value
    typed, _, text = flag.partition("=")
    assert getattr(read(typed, text), name) == value


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--count=true", "a whole number"),
        ("--count=1.9", "a whole number"),
        ("--count=null", "a whole number"),
        ("--count=", "a whole number"),
        ("--most=2.5", "a whole number or null"),
        ("--share=true", "a number"),
        ("--share=nan", "a number"),
        ("--share=-inf", "a number"),
        ("--quick=2", "true or false"),
        ("--ids=3", r"a list such as '\[1, 2\]', each entry a whole number"),
        ("--ids=[1.5]", r"a list such as '\[1, 2\]', each entry a whole number"),
        ("--ids=[true]", r"a list such as '\[1, 2\]', each entry a whole number"),
        ("--labels=a", r"a list such as '\[a, b\]', each entry text"),
        ("--labels=[a: b]", r"a list such as '\[a, b\]', each entry text"),
        ("--labels=[a", r"a list such as '\[a, b\]', each entry text \(while parsing"),
        ("--labels=" + "[" * 5000, r"a list such as '\[a, b\]', each entry text"),
        ("--sizes=[1]", "a mapping such as"),
    ],
)
def test_what_is_of_another_type_is_named_with_what_is_allowed(flag, allowed):
    with pytest.raises(ParsingError, match=rf"^--{flag[2:].partition('=')[0]}=.* must be {allowed}") as raised:
        read(flag)
    assert "\n" not in str(raised.value)


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(ParsingError, match=r"^--checkpoint and --output_dir must be given$"):
        parse_flags(Needs, ["--seed=3"], "tool")


def test_a_file_of_settings_is_read_by_the_same_types(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("count: 3\nlabels: [a, 7]\nroot: here\nnote: null\n")
    assert read(f"--config_path={file}", "--count=4") == Settings(root=Path("here"), count=4, labels=["a", "7"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("count: true", "--count=True must be a whole number"),
        ("name: null", "--name=None must be text"),
        ("share: 1e999", "--share=1e999 must be a number"),
        ("steps: 3", "has the setting 'steps'; allowed: root, count"),
        ("[1, 2]", "must hold settings by name"),
        ("count: [", "can't be read"),
        (b"\xff\xfe\x00", "can't be read"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(tmp_path, content, words):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParsingError) as raised:
        read(f"--config_path={file}")
    assert words in str(raised.value)
    with pytest.raises(OSError, match="nowhere"):
        read("--config_path=nowhere.yaml")
