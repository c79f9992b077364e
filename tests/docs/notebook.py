"""Run the cells of a notebook in this process: ``python -m tests.docs.notebook FILE.ipynb`` keeps their outputs.

The notebooks here are plain Python, and so need neither Jupyter nor a kernel: an output is what a cell prints, and its
last expression as text, or as an image where it has one.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run(file: Path) -> dict[str, Any]:
    """Execute all code cells in their order.

    Args:
        file: The notebook; it is not changed.

    Returns:
        Its content, with the new outputs.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"], cell["outputs"] = count, _outputs("".join(cell["source"]), names, count)
    return content


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    found: list[dict[str, Any]] = []
    if text := printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if picture := getattr(value, "_repr_png_", lambda: None)():
            data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["<image>"]}
        found.append({"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}})
    return found


def texts(content: dict[str, Any]) -> list[str]:
    """What the code cells of a notebook print and show as text, one entry per output."""
    return [
        "".join(output.get("text") or output["data"]["text/plain"])
        for cell in content["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(json.dumps(run(Path(name)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
