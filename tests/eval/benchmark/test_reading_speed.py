"""The reading report counts what it says it counts."""

import json

import pytest

from eval.benchmark import reading_speed
from tests.helpers.random_dataset import REPO_ID, write_dataset


def test_the_report_has_every_way_of_reading(tmp_path, capsys, monkeypatch):
    data = write_dataset(tmp_path / "data")
    read = []
    milliseconds = reading_speed._milliseconds
    monkeypatch.setattr(
        reading_speed, "_milliseconds", lambda dataset, frame: read.append(frame) or milliseconds(dataset, frame)
    )
    flags = [f"--root={data}", f"--repo_id={REPO_ID}", "--chunk_sizes=[3,10]", "--samples=4", "--rounds=3"]
    assert reading_speed.main([*flags, f"--reports={tmp_path / 'reports'}"]) == 0
    assert len(read) == 3 * 3 * 4
    content = json.loads((tmp_path / "reports/benchmark-reading/report.json").read_text())
    figures = content["figures"]
    assert list(figures["ms"]) == ["one row", "chunk of 3", "chunk of 10"]
    # The first round warms up.
    assert all(len(one["round_medians_ms"]) == 2 for one in figures["ms"].values())
    assert figures["stored_as"] == "images"
    assert figures["cameras"]["observation.images.image"] == [32, 32, 3]
    report = (tmp_path / "reports/benchmark-reading/report.md").read_text()
    assert f"`{capsys.readouterr().out.split(', report')[0]}`" in report
    assert "| chunk of 10 |" in report


def test_the_ratio_is_to_one_row():
    values = {"ms": {"one row": {"median_ms": 2.0}, "chunk of 10": {"median_ms": 22.0}}}
    assert reading_speed.verdict(values) == "reading: one row 2.00 ms; chunk of 10 11.0 times"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "is no LeRobotDataset"),
        (["--samples=0"], "--samples=0 must be at least 1"),
        (["--rounds=1"], "--rounds=1 must be at least 2"),
        (["--chunk_sizes=[0]"], "--chunk_sizes"),
    ],
)
def test_what_can_t_work_is_refused(tmp_path, capsys, flags, message):
    if flags:
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta/info.json").write_text("{}")
    assert reading_speed.main([f"--root={tmp_path}", f"--reports={tmp_path / 'reports'}", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
