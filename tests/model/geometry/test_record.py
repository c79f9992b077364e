"""What a backbone says of itself: read back as written, and refused in a sentence where it is damaged."""

import json

import pytest

from lerobot_atlasvla.model.geometry.record import FILE, GeometryRecord, RecordError, read_record
from tests.helpers.geometry.backbone import record


@pytest.mark.parametrize("heads", [True, False])
def test_a_record_comes_back(tmp_path, heads):
    made = record(heads=heads)
    (tmp_path / FILE).write_text(json.dumps(made.to_json() | {"data": {"anything": 1}}))
    (tmp_path / "model.safetensors").touch()
    assert read_record(tmp_path) == made
    assert read_record(tmp_path / "model.safetensors") == made


@pytest.mark.parametrize("content", [None, {"embed_dim": 1024, "img_size": 518, "patch_size": 14}, [1], "x"])
def test_other_models_have_none(tmp_path, content):
    if content is not None:
        (tmp_path / FILE).write_text(json.dumps(content))
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("name", ["", "no/such", "\x00", "x" * 10_000])
def test_no_folder_has_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_record(name) is None


def changed(path: str, value) -> dict:
    content = json.loads(json.dumps(record().to_json()))
    *above, last = path.split(".")
    place = content
    for name in above:
        place = place[name]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("architecture", KeyError),
        ("architecture.embed_dim", 1e9),
        ("architecture.embed_dim", 34),
        ("architecture.depth", True),
        ("architecture.depth", 0),
        ("architecture.patch_size", "8"),
        ("architecture.patch_embed", "resnet"),
        ("architecture.num_heads", KeyError),
        ("image_size", [32]),
        ("image_size", [32, 33]),
        ("image_size", None),
        ("views", []),
        ("views", ["wrist", "wrist"]),
        ("views", "wrist"),
        ("views", [1, 2]),
        ("heads", []),
        ("heads.frame", "world"),
        ("heads.descriptor_dim", -1),
        ("heads.cells_per_side", 99),
        ("heads.statistics", KeyError),
        ("heads.statistics.pose", [[0.0] * 9]),
        ("heads.statistics.pose", [[0.0] * 8, [0.0] * 9]),
        ("heads.statistics.log_depth", [["a"], [0.0]]),
        ("heads.statistics.point", [[0, 0, float("nan")]] * 2),
        ("heads.statistics.point", [[0, 0, 1e30]] * 2),
        ("heads.statistics.intrinsics", [[0.0] * 9] * 2),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, path, value):
    content = changed(path, value)
    with pytest.raises(RecordError, match=path.split(".")[-1]):
        GeometryRecord.from_json(content)
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(RecordError) as caught:
        read_record(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 100_000])
def test_an_unreadable_record_is_refused(tmp_path, text):
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match="can't be read"):
        read_record(tmp_path)
