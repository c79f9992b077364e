"""The comments of a dataclass's fields, which are the help texts of a command's flags.

draccus 0.11 looks for them with a regular expression, and takes every line of the class for a field that begins with
its name and a colon: also in the docstring of a method or in a dictionary, with the code below as the help text of a
field that the class inherits. Here the fields are those of the syntax tree. And a percent sign is one: argparse would
take it for a place to put a value into, and raise.
"""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from draccus.wrappers import docstring
from draccus.wrappers.docstring import AttributeDocString


def field_comments(some_dataclass: type[Any], field_name: str) -> AttributeDocString:
    """Return the comment above a field, the one beside it, and the docstring below it; each empty if there is none.

    Args:
        some_dataclass: The class, which may inherit the field.
        field_name: Its name.
    """
    for owner in some_dataclass.__mro__:
        if found := _own_comments(owner).get(field_name):
            return found
    return AttributeDocString()


@contextmanager
def help_of_fields() -> Iterator[None]:
    """Let draccus give the help texts of :func:`field_comments` meanwhile."""
    before = docstring.get_attribute_docstring
    docstring.get_attribute_docstring = field_comments
    try:
        yield
    finally:
        docstring.get_attribute_docstring = before


@functools.cache
def _own_comments(owner: type[Any]) -> dict[str, AttributeDocString]:
    """Comments of the fields that a class itself has; none for a class without source."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
        (tree,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    if not isinstance(tree, ast.ClassDef):
        return {}
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for statement, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        first = statement.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        above = "\n".join(comments[line] for line in range(first, statement.lineno))
        texts = (above, comments.get(statement.lineno, ""), _text(below))
        found[statement.target.id] = AttributeDocString(*(text.replace("%", "%%") for text in texts))
    return found


def _text(statement: ast.stmt | None) -> str:
    """The docstring that a statement is, or nothing."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(statement.value.value) if isinstance(statement.value.value, str) else ""
    return ""
