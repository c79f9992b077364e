"""The notebook runs, and shows what it showed when its outputs were kept."""

import json
import re
from pathlib import Path

import pytest

from tests.docs import notebook

FILE = Path(__file__).parents[2] / "examples/quickstart.ipynb"
NUMBER = re.compile(r"-?\d+\.\d+")


def test_the_notebook_runs_and_its_outputs_are_up_to_date():
    kept = json.loads(FILE.read_text())
    before, now = notebook.texts(kept), notebook.texts(notebook.run(FILE))
    assert len(before) >= 6
    assert [NUMBER.sub("#", text) for text in now] == [NUMBER.sub("#", text) for text in before]
    # Matrix products round differently from one CPU to another.
    numbers = [[float(number) for text in texts for number in NUMBER.findall(text)] for texts in (now, before)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


def test_an_error_in_a_cell_is_an_error(tmp_path):
    cell = {"cell_type": "code", "source": ["print('seen')\n", "1 / 0"], "outputs": []}
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(ZeroDivisionError):
        notebook.run(tmp_path / "x.ipynb")
