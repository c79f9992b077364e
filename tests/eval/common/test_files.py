"""Files are written whole or not at all, and the reports in the repository are as compact as the writer makes them."""

import json
from pathlib import Path

import pytest

from eval.common.files import json_text, replacing, write_text

RESULTS = Path(__file__).parents[3] / "eval/results"


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path):
    file = tmp_path / "new/picture.png"
    write_text(file, "before")

    def fail_halfway() -> None:
        with replacing(file) as scratch:
            assert scratch.suffix == ".png"
            scratch.write_text("half of it")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert file.read_text() == "before"
    with replacing(file) as scratch:
        scratch.write_text("after")
    assert file.read_text() == "after"
    assert list(file.parent.iterdir()) == [file]


def test_json_has_a_line_for_each_value_object_and_rollout():
    content = {
        "name": "ä\nb",
        "nested": {"x": [1, 2], "deep": {"y": None}},
        "curve": [[1, 0.5], [2, 0.25]],
        "runs": [{"label": "a", "rollout_rows": [["s", 0], ["s", 1]]}, {"label": "b", "rollout_rows": []}],
        "tasks": [{"id": 0, "rate": 1.0}],
    }
    assert json_text(content).splitlines() == [
        "{",
        '"name": "ä\\nb",',
        '"nested": {"x": [1, 2], "deep": {"y": null}},',
        '"curve": [[1, 0.5], [2, 0.25]],',
        '"runs": [',
        "{",
        '"label": "a",',
        '"rollout_rows": [',
        '["s", 0],',
        '["s", 1]',
        "]",
        "},",
        "{",
        '"label": "b",',
        '"rollout_rows": []',
        "}",
        "],",
        '"tasks": [',
        '{"id": 0, "rate": 1.0}',
        "]",
        "}",
    ]
    assert json.loads(json_text(content)) == content


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*/*.json")), ids=lambda file: file.parent.name)
def test_results_in_the_repository_are_as_the_writer_writes_them(file):
    text = file.read_text(encoding="utf-8")
    assert json_text(json.loads(text)) == text
