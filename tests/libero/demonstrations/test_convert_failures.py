"""atlasvla-convert: damaged input, wrong settings, and runs that stop half way."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lerobot_atlasvla.libero.demonstrations import convert as convert_module
from lerobot_atlasvla.libero.demonstrations.convert import RECORD_NAME, convert, main
from lerobot_atlasvla.libero.demonstrations.convert_settings import ConversionError
from tests.helpers.full_disk import fill_up
from tests.libero.demonstrations.hdf5_files import (
    PIXELS,
    REPO_ID,
    STEM,
    config,
    expected_first_actions,
    first_actions,
    four_demos,
    make_demo,
    write_file,
)


@pytest.fixture
def source(tmp_path):
    return four_demos(tmp_path / "hdf5")


# -- damaged input -----------------------------------------------------------------------------------------------------


def without(key):
    return lambda demo: demo.pop(key)


def with_value(key, value):
    return lambda demo: demo.update({key: value(demo[key])})


def nan_in_row_3(array):
    array[3] = np.nan
    return array


DAMAGES = [
    (without("obs/agentview_rgb"), "has no obs/agentview_rgb"),
    (without("actions"), "has no actions"),
    (without("obs/gripper_states"), "has no obs/gripper_states"),
    (without("obs/ee_states"), "has no obs/ee_pos"),
    (with_value("actions", nan_in_row_3), "actions holds NaN or infinity, first in row 3"),
    (with_value("obs/ee_states", nan_in_row_3), "ee_states holds NaN or infinity, first in row 3"),
    (with_value("actions", lambda a: a[:, :6]), r"actions is float64 of shape (6, 6), must be numbers of shape (T, 7)"),
    (with_value("obs/agentview_rgb", lambda a: a / 255), "agentview_rgb is float64"),
    (with_value("obs/agentview_rgb", lambda a: a[:, :4]), "agentview frames have shape (4, 8, 3)"),
    (with_value("obs/eye_in_hand_rgb", lambda a: a[:, :4, :4]), "wrist frames have shape (4, 4, 3)"),
    (
        with_value("obs/eye_in_hand_rgb", lambda a: a[:-1]),
        "lengths differ: actions has 6 rows, the observations [5, 6]",
    ),
    (with_value("actions", lambda a: a[:-1]), "lengths differ: actions has 5 rows"),
    (with_value("actions", lambda a: a * 0), "every action does nothing"),
    (lambda demo: demo.update(make_demo(pixels=16)), "16 pixels, the dataset's 8; give --image_size"),
    (lambda demo: demo.update(make_demo(rows=0)), "has no rows"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[reason for _, reason in DAMAGES])
def test_a_damaged_demonstration_is_named_and_skipped(tmp_path, capsys, damage, reason):
    demos = [make_demo(seed) for seed in range(3)]
    damage(demos[1])
    write_file(tmp_path / "hdf5/a_demo.hdf5", demos)
    flags = [f"--root={tmp_path / 'ds'}", f"--folder={tmp_path / 'hdf5'}", f"--repo_id={REPO_ID}"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "skipped a_demo.hdf5 demo_1: " in out
    assert reason in out
    assert (
        "converted 2 of 3 demonstrations from 1 files (2 of them now), skipped 1 demonstrations and 0 unreadable" in out
    )
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 2)


def truncated(path: Path) -> None:
    write_file(path, [make_demo()])
    path.write_bytes(path.read_bytes()[:3000])


def no_data_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["observations"] = [1, 2]


FILES = [
    (truncated, "not readable as HDF5"),
    (lambda path: path.write_text("not HDF5"), "not readable as HDF5"),
    (lambda path: path.touch(), "not readable as HDF5"),
    (no_data_group, "unknown layout: LIBERO's files hold a group 'data' at the top, this one observations"),
    (lambda path: write_file(path, []), "holds no demonstrations: its group 'data' holds no 'demo_0', ... but nothing"),
]


@pytest.mark.parametrize(("make", "reason"), FILES)
def test_an_unusable_file_is_named_and_skipped(tmp_path, source, capsys, make, reason):
    make(source / "bad.hdf5")
    assert main([f"--root={tmp_path / 'ds'}", f"--folder={source}", f"--repo_id={REPO_ID}"]) == 0
    out = capsys.readouterr().out
    assert f"skipped bad.hdf5: {reason}" in out
    assert "4 of 4 demonstrations from 1 files (4 of them now), skipped 0 demonstrations and 1 unreadable files" in out


@pytest.mark.parametrize(("make", "reason"), FILES)
def test_nothing_to_convert_is_an_error(tmp_path, capsys, make, reason):
    make(tmp_path / "bad.hdf5")
    assert main([f"--root={tmp_path / 'ds'}", f"--files=[{tmp_path / 'bad.hdf5'}]"]) == 1
    err = capsys.readouterr().err
    assert reason in err
    assert "nothing could be converted" in err
    assert not (tmp_path / "ds").exists()


def test_a_file_that_another_program_writes_to_is_named_as_locked(tmp_path, source, capsys):
    """And not as damaged: converted once it is closed."""
    source /= f"{STEM}_demo.hdf5"
    writer = subprocess.Popen(
        [sys.executable, "-c", f"import h5py; f = h5py.File({str(source)!r}, 'r+'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"},
    )
    try:
        assert writer.stdout.readline()
        main([f"--files=[{source}]", f"--root={tmp_path / 'ds'}"])
    finally:
        writer.communicate(b"\n")
    message = capsys.readouterr().err
    assert "another program has it open for writing" in message
    assert "damaged" not in message
    assert main([f"--files=[{source}]", f"--root={tmp_path / 'ds'}"]) == 0


def test_a_file_that_may_not_be_read_is_named_as_such(tmp_path, source, capsys, monkeypatch):
    source /= f"{STEM}_demo.hdf5"

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(h5py, "File", refuse)
    assert main([f"--files=[{source}]", f"--root={tmp_path / 'ds'}"]) == 1
    assert "permission denied" in capsys.readouterr().err


def test_a_damaged_chunk_costs_one_demonstration(tmp_path, source):
    path = source / f"{STEM}_demo.hdf5"
    with h5py.File(path, "r+") as file:
        frames = file["data/demo_2/obs/agentview_rgb"][()]
        del file["data/demo_2/obs/agentview_rgb"]
        options = {"compression": "gzip", "chunks": (1, PIXELS, PIXELS, 3)}
        chunk = file["data/demo_2/obs"].create_dataset("agentview_rgb", data=frames, **options).id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 40] = bytes(40)
    path.write_bytes(content)
    outcome = convert(config(tmp_path / "ds", source))
    ((_, demo, reason),) = outcome.skipped
    assert demo == "demo_2"
    assert "damaged" in reason
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1, 3)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"folder": None}, r"--files=\(not given\) and --folder=\(not given\): give exactly one"),
        ({"files": [Path("a.hdf5")]}, "give exactly one"),
        ({"folder": None, "files": []}, r"--files=\[\] must name"),
        ({"folder": Path("nowhere")}, "--folder=nowhere is not a folder that exists"),
        ({"folder": None, "files": [Path("nowhere.hdf5")]}, "--files names .*nowhere.hdf5, which is not a file"),
        ({"image_size": 0}, "--image_size=0 must be at least 1"),
        ({"save_every": 0}, "--save_every=0 must be at least 1"),
        ({"max_demos_per_file": 0}, "--max_demos_per_file=0 must be at least 1"),
        ({"task_text": "x"}, "--task_text=x is not known; allowed: benchmark, attribute"),
        ({"observation_timing": "x"}, "--observation_timing=x is not known; allowed: auto, before, after"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, source, overrides, message):
    with pytest.raises(ConversionError, match=message):
        convert(config(tmp_path / "ds", source, **overrides))
    assert not (tmp_path / "ds").exists()


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"holds no \*.hdf5 file"):
        convert(config(tmp_path / "ds", tmp_path))


# -- stopping and continuing -------------------------------------------------------------------------------------------


def test_the_same_command_again_changes_nothing(tmp_path, source):
    convert(config(tmp_path / "ds", source))
    before = {path: path.read_bytes() for path in (tmp_path / "ds").rglob("*") if path.is_file()}
    outcome = convert(config(tmp_path / "ds", source))
    assert (outcome.converted, outcome.new) == (4, 0)
    assert {path: path.read_bytes() for path in (tmp_path / "ds").rglob("*") if path.is_file()} == before


def test_a_run_stopped_while_reading_continues(tmp_path, source, monkeypatch):
    def read(data, name, timing):
        if name == "demo_3":
            raise KeyboardInterrupt
        return real(data, name, timing)

    real = convert_module.read_demo
    monkeypatch.setattr(convert_module, "read_demo", read)
    flags = [f"--root={tmp_path / 'ds'}", f"--repo_id={REPO_ID}", f"--folder={source}", "--save_every=2"]
    assert main(flags) == 130
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1)
    monkeypatch.undo()
    assert main(flags) == 0
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1, 2, 3)


def test_a_file_that_was_damaged_is_converted_when_it_is_whole(tmp_path, source):
    whole = write_file(tmp_path / "b_demo.hdf5", [make_demo(7)]).read_bytes()
    (source / "b_demo.hdf5").write_bytes(whole[:3000])
    assert convert(config(tmp_path / "ds", source)).converted == 4
    (source / "b_demo.hdf5").write_bytes(whole)
    outcome = convert(config(tmp_path / "ds", source))
    assert (outcome.converted, outcome.new, outcome.skipped) == (5, 1, [])
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1, 2, 3, 7)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"keep_noops": True}, "--keep_noops=True differs from False"),
        ({"image_size": 4}, r"--image_size=4 differs from \(not given\)"),
        ({"task_text": "attribute"}, "--task_text=attribute differs from benchmark"),
        ({"observation_timing": "after"}, "--observation_timing=after differs from auto"),
        ({"repo_id": "test/other"}, "--repo_id=test/other differs from test/converted"),
    ],
)
def test_other_settings_cannot_continue_a_dataset(tmp_path, source, overrides, message):
    convert(config(tmp_path / "ds", source, max_demos_per_file=1))
    with pytest.raises(ConversionError, match=message):
        convert(config(tmp_path / "ds", source, **overrides))


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named_and_nothing_is_touched(tmp_path, source, content):
    convert(config(tmp_path / "ds", source, max_demos_per_file=1))
    (tmp_path / "ds/meta" / RECORD_NAME).write_text(content)
    with pytest.raises(ConversionError, match=rf"has a damaged meta/{RECORD_NAME} or .* Nothing was touched"):
        convert(config(tmp_path / "ds", source))


def test_other_files_cannot_continue_a_dataset(tmp_path, source):
    convert(config(tmp_path / "ds", source))
    write_file(tmp_path / "other/c_demo.hdf5", [make_demo()])
    with pytest.raises(ConversionError, match=rf"{STEM}_demo.hdf5, which is not among the files given now \(c_demo"):
        convert(config(tmp_path / "ds", tmp_path / "other"))


def test_a_file_from_another_folder_cannot_be_added_and_the_message_says_so(tmp_path, source):
    first = source / f"{STEM}_demo.hdf5"
    convert(config(tmp_path / "ds", source, folder=None, files=[first]))
    below = write_file(source / "more/b_demo.hdf5", [make_demo(7)])
    outside = write_file(tmp_path / "other/c_demo.hdf5", [make_demo(8)])
    with pytest.raises(ConversionError, match=r"with --files, such as lie in the folder that the earlier ones share"):
        convert(config(tmp_path / "ds", source, folder=None, files=[first, outside]))
    convert(config(tmp_path / "ds", source, folder=None, files=[first, below]))
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1, 2, 3, 7)


def test_a_disk_that_fills_up_while_writing_leaves_the_dataset_whole(tmp_path, source, monkeypatch):
    fill_up(monkeypatch)
    with pytest.raises(ConversionError, match=r"No space left on device.*complete up to here"):
        convert(config(tmp_path / "ds", source))
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1)
    monkeypatch.undo()
    assert convert(config(tmp_path / "ds", source)).new == 2
    assert first_actions(tmp_path / "ds") == expected_first_actions(0, 1, 2, 3)


def test_the_record_names_no_local_folder(tmp_path, source):
    convert(config(tmp_path / "ds", source))
    assert str(tmp_path) not in (tmp_path / "ds" / "meta" / RECORD_NAME).read_text()
