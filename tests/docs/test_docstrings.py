"""Docstrings are sentences with a verb, as CONTRIBUTING.md asks."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("lerobot_atlasvla", "eval", "docs", "examples", "scripts")
NO_SENTENCE = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Why"}
"""A docstring that starts with one of these is a question or half a sentence."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def half_sentences(source: str) -> list[str]:
    """Return the first lines of the docstrings that start with a question word."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED))
    lines = (docstring.splitlines()[0] for node in nodes if (docstring := ast.get_docstring(node)))
    return [line for line in lines if line.split()[0].rstrip(",:;.") in NO_SENTENCE]


def test_docstrings_are_sentences():
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = {str(file.relative_to(ROOT)): lines for file in files if (lines := half_sentences(file.read_text("utf-8")))}
    assert found == {}


def test_a_question_is_found():
    assert half_sentences('"""Where things are."""\n\ndef f():\n    """Return what it is."""') == ["Where things are."]
