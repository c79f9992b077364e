"""rename_columns: a copy appears whole or not at all, and the dataset itself stays as it is."""

import json
import shutil

import pytest

from lerobot_atlasvla.commands.rename_columns import RenameConfig, RenameError, _renamed_path, main, rename


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({}, "must name at least one column"),
        ({"nothing": "action"}, r"names \['nothing'\]; the columns that can be renamed are"),
        ({"index": "action2"}, "names"),
        ({"action": "observation.state"}, "to two columns"),
        ({"action": "../action"}, "without a slash"),
        ({"action": ""}, "without a slash"),
    ],
)
def test_names_that_do_not_go_together_are_refused_before_anything_is_written(dataset_root, tmp_path, names, words):
    with pytest.raises(RenameError, match=words):
        rename(RenameConfig(dataset_root, tmp_path / "copy", names))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_dataset_or_in_the_way_is_refused(dataset_root, tmp_path, capsys):
    assert main([f"--root={tmp_path}", f"--output_dir={tmp_path / 'copy'}"]) == 1
    assert "is no LeRobot dataset" in capsys.readouterr().err
    assert main([f"--root={dataset_root}", f"--output_dir={tmp_path}"]) == 1
    assert "exists; choose a folder that does not" in capsys.readouterr().err
    (tmp_path / "old/meta").mkdir(parents=True)
    (tmp_path / "old/meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "features": {}}))
    assert main([f"--root={tmp_path / 'old'}", f"--output_dir={tmp_path / 'copy'}"]) == 1
    assert "format v2.1, this command knows v3" in capsys.readouterr().err
    assert main([f"--root={dataset_root}", f"--output_dir={tmp_path / 'copy'}", "--rename_map=[1, 2]"]) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta/info.json", "{"),
        ("meta/info.json", "[]"),
        ("meta/info.json", '{"codebase_version": "v3.0"}'),
        ("meta/stats.json", "[]"),
        ("data/chunk-000/file-000.parquet", "PAR1"),
    ],
)
def test_damaged_data_are_named_and_leave_nothing(dataset_root, tmp_path, capsys, name, content):
    root = shutil.copytree(dataset_root, tmp_path / "damaged")
    (root / name).write_text(content)
    names = '--rename_map={"action": "act"}'
    assert main([f"--root={root}", f"--output_dir={tmp_path / 'copy'}", names]) == 1
    assert f"rename_columns: --root={root} is damaged (" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_copy_of_a_quicker_process_stays_and_the_error_says_so(dataset_root, tmp_path, monkeypatch, capsys):
    target = tmp_path / "copy"

    def other_is_quicker(*_):
        target.mkdir(exist_ok=True)
        (target / "theirs").touch()

    monkeypatch.setattr("lerobot_atlasvla.commands.rename_columns._copy_table", other_is_quicker)
    names = '{"action": "observation.action"}'
    assert main([f"--root={dataset_root}", f"--output_dir={target}", f"--rename_map={names}"]) == 1
    assert f"--output_dir={target} exists; choose a folder that does not" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_copy_that_breaks_off_leaves_nothing(dataset_root, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="No space"):
        rename(RenameConfig(dataset_root, tmp_path / "copy", {"action": "act"}))
    assert list(tmp_path.iterdir()) == []


def test_videos_move_with_their_columns():
    from pathlib import Path

    names = {"cam": "observation.images.cam", "observation/image": "observation.images.image"}
    assert _renamed_path(Path("videos/cam/chunk-000/a.mp4"), names) == Path(
        "videos/observation.images.cam/chunk-000/a.mp4"
    )
    assert _renamed_path(Path("videos/camera/a.mp4"), names) == Path("videos/camera/a.mp4")
    assert _renamed_path(Path("data/cam/a.parquet"), names) == Path("data/cam/a.parquet")
    assert _renamed_path(Path("videos/observation/image/a.mp4"), names) == Path("videos/observation.images.image/a.mp4")
