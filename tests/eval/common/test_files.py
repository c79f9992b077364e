"""A folder has one writer, and the reports in the repository are as compact as the writer makes them."""

import json
from pathlib import Path

import pytest

from eval.common.errors import EvalError
from eval.common.files import json_text, only_writer, set_aside

RESULTS = Path(__file__).parents[3] / "eval/results"


def test_a_folder_has_one_writer_and_what_an_earlier_run_left_is_moved_with_it(tmp_path):
    folder = tmp_path / "out"
    with only_writer(folder):
        (folder / "old").touch()
        with (
            pytest.raises(EvalError, match=rf"Another process is writing to --root={folder}; wait"),
            only_writer(folder, "--root"),
        ):
            pass
        kept = set_aside(folder, sorted(folder.iterdir()))
    assert (kept / "old").exists()
    assert not folder.exists()
    with only_writer(folder):
        assert set_aside(folder, sorted(folder.iterdir())) is None


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


def test_a_folder_that_can_not_be_made_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for place in (tmp_path / "file", tmp_path / "file/inside", tmp_path / "link"):
        with pytest.raises(EvalError, match=rf"^--name={place} can't be written: "), only_writer(place, "--name"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
