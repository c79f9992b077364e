"""The Markdown files keep their promises: links, quoted messages, commands and flags exist."""

import ast
import dataclasses
import functools
import importlib.util
import itertools
import re
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lerobot_atlasvla import AtlasVLAConfig
from tests.helpers import ROOT

FOLDERS = ("checkpoints", "configs", "docs", "eval", "examples", "lerobot_atlasvla", "scripts", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
# Pages written by hand; reports show the commands of their commit.
GENERATED = {"results", "checkpoints"}
GUIDES = [page for page in PAGES if not GENERATED.intersection(page.relative_to(ROOT).parts)]
ELLIPSIS = "…"
# Flags that LeRobot's own parser adds to a policy's.
LEROBOT_FLAGS = {"type", "path"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tokens(page: Path):
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def links(page: Path) -> list[str]:
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    return [link for link in found if link and "://" not in link and not link.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings."""
    everything = list(tokens(page))
    titles = [after.content for token, after in itertools.pairwise(everything) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{relative(target)} has no heading #{anchor}"


@functools.cache
def strings_of_the_code() -> list[str]:
    """Every text in the package and in eval, with the ellipsis where a value is put in."""
    found = [(ROOT / "scripts/setup.sh").read_text()]
    for file in [*ROOT.glob("lerobot_atlasvla/**/*.py"), *ROOT.glob("eval/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else ELLIPSIS for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages(page: Path) -> list[str]:
    """Code in the first column of the tables whose first heading is "message"."""
    rows = [line.split("|")[1].strip() for line in page.read_text().splitlines() if line.startswith("|")]
    messages, wanted = [], False
    for cell in rows:
        if not set(cell) <= set("-"):
            wanted = cell == "message" or (wanted and cell.startswith("`"))
            if wanted and cell != "message":
                messages.append(cell.strip("`"))
    return messages


def is_in_the_code(message: str) -> bool:
    """Whether the parts of a message stand in one text of the code, in their order."""
    parts = [re.escape(part.strip()) for part in re.split(rf"'?{ELLIPSIS}'?", message) if part.strip(" ;:.,")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in strings_of_the_code())


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/troubleshooting.md"], ids=relative)
def test_quoted_messages_are_those_of_the_code(page):
    messages = quoted_messages(page)
    assert len(messages) >= 3
    assert [message for message in messages if not is_in_the_code(message)] == []


@pytest.mark.parametrize("page", GUIDES, ids=relative)
def test_commands_and_flags_exist(page):
    text = page.read_text(encoding="utf-8")
    fields = {field.name for field in dataclasses.fields(AtlasVLAConfig)} | LEROBOT_FLAGS
    assert set(re.findall(r"--policy\.(\w+)", text)) <= fields
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].keys()
    assert set(re.findall(r"\batlasvla-[a-z-]*[a-z](?= --| -|`)", text)) <= scripts
    for module in re.findall(r"python -m ((?:eval|lerobot_atlasvla)\.[a-z_.]*[a-z_])", text):
        assert importlib.util.find_spec(module), f"no module {module}"
    variables = set(re.findall(r"\bATLASVLA_[A-Z_]+", text))
    assert variables <= {text for text in strings_of_the_code() if text.startswith("ATLASVLA_")}


def test_the_tests_of_the_feature_table_exist():
    names = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "docs/training.md").read_text()))
    assert len(names) > 10
    assert names <= {path.name for path in ROOT.glob("tests/**/test_*.py")}


def test_the_two_commands_stay_at_the_top():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert [line.split("#")[0].strip() for line in blocks[0].splitlines()] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_a_wrong_link_and_a_wrong_message_are_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\n[x](nowhere.md) [y](#a-heading)\n\n| message | x |\n|---|---|\n| `no such …` | y |\n"
    )
    assert links(page) == ["nowhere.md", "#a-heading"]
    assert anchors(page) == {"a-heading"}
    assert quoted_messages(page) == ["no such …"]
    assert not is_in_the_code("the data have … no such cameras")


@pytest.mark.parametrize("kind", ["*.md", "*.json"])
def test_the_commands_of_reports_name_no_folder_of_a_machine(kind):
    files = list((ROOT / "eval/results").rglob(kind))
    assert files
    absolute = re.compile(r"--[a-z_.]+=/[A-Za-z]")
    assert [str(file) for file in files if absolute.search(file.read_text())] == []
