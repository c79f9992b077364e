"""Exactly the needed tensors are read, from any format, and every mismatch is named."""

import datetime
import hashlib
import json
import struct
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from lerobot_atlasvla.weights import tensor_files as module
from lerobot_atlasvla.weights.download import WeightsError
from lerobot_atlasvla.weights.tensor_files import digest, read_tensors

WANTED = {
    "blocks.0.weight": torch.arange(6.0).reshape(2, 3),
    "blocks.0.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "blocks.1.half": torch.arange(3).to(torch.float16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "steps": torch.tensor([7]),
}
OTHER = {"camera_head.a": torch.ones(2), "camera_head.b": torch.ones(2), "depth_head.a": torch.ones(1)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in WANTED.items()}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def saved(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def read(*weights: Path, shapes=SHAPES, prefixes=("",)):
    return read_tensors(weights, shapes, source="someone/eyes", prefixes=prefixes)


def refuse(*weights: Path, shapes=SHAPES, prefixes=("",)) -> str:
    with pytest.raises(WeightsError) as error:
        read(*weights, shapes=shapes, prefixes=prefixes)
    return str(error.value)


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == WANTED.keys() and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in WANTED.items()
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", WANTED | OTHER),
        ("x.pt", WANTED | OTHER),
        ("x.bin", WANTED | OTHER),
        ("x.pt", {"model": WANTED | OTHER}),
        ("x.pt", {"state_dict": WANTED | OTHER}),
        ("x.pt", {"model": WANTED | OTHER, "epoch": 3}),
        ("x.pt", {name: torch.nn.Parameter(t, requires_grad=False) for name, t in (WANTED | OTHER).items()}),
    ],
)
def test_every_format_gives_the_same(tmp_path, name, content):
    found, report = read(saved(tmp_path / name, content))
    assert same(found)
    assert (report.source, report.matched, report.ignored) == ("someone/eyes", 6, {"camera_head": 2, "depth_head": 1})
    assert report.digest == digest(WANTED)


def test_shards_are_one_checkpoint_and_each_is_opened_once(tmp_path, monkeypatch):
    names = list(WANTED)
    parts = [{name: WANTED[name] for name in names[:3]}, {name: WANTED[name] for name in names[3:]} | OTHER]
    paths = [saved(tmp_path / f"part-{index}.safetensors", part) for index, part in enumerate(parts)]
    opened = []

    def recorded(path, framework):
        opened.append(path)
        return safetensors.safe_open(path, framework)

    monkeypatch.setattr(module, "safe_open", recorded)
    found, report = read(*paths)
    assert same(found)
    assert opened == paths
    assert report.digest == digest(WANTED)


def test_only_the_needed_tensors_are_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.safetensors", WANTED | OTHER)
    asked = []

    class Recorder:
        def __init__(self, path, framework):
            self.file = safetensors.safe_open(path, framework)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __getattr__(self, name):
            return getattr(self.file, name)

        def get_tensor(self, name):
            asked.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(module, "safe_open", Recorder)
    read(path)
    assert sorted(asked) == sorted(WANTED)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "np"}])
def test_the_header_may_lack_the_format(tmp_path, metadata):
    header: dict[str, object] = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<2f", 1.0, 2.0))
    found, _ = read(tmp_path / "x.safetensors", shapes={"a": (2,)})
    assert found["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_writing_to_the_tensors_leaves_the_file_alone(tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", WANTED)
    before = path.read_bytes()
    found, _ = read(path)
    found["blocks.0.weight"].add_(1)
    assert path.read_bytes() == before
    assert same(read(path)[0])


@pytest.mark.parametrize("prefix", ["", "model.", "aggregator."])
def test_the_prefix_that_fits_best_is_taken(tmp_path, prefix):
    # "scalar" is also there without prefix: one match does not make that the prefix.
    path = saved(tmp_path / "x.safetensors", prefixed(prefix, WANTED) | OTHER | {"scalar": torch.tensor(3.0)})
    found, report = read(path, prefixes=("model.", "", "aggregator."))
    assert same(found)
    assert report.digest == digest(WANTED)
    assert report.ignored.get("scalar", 0) == (1 if prefix else 0)


def test_missing_tensors_are_named(tmp_path):
    path = saved(tmp_path / "x.safetensors", {name: t for name, t in WANTED.items() if "0" not in name})
    message = refuse(path)
    for words in ("someone/eyes", "2 of 6 tensors missing: blocks.0.weight, blocks.0.bias", str(path)):
        assert words in message


def test_of_many_missing_tensors_five_are_named(tmp_path):
    path = saved(tmp_path / "x.safetensors", OTHER)
    message = refuse(path, shapes={f"layer.{index}": (1,) for index in range(9)}, prefixes=("model.", ""))
    assert "9 of 9 tensors missing: layer.0, layer.1, layer.2, layer.3, layer.4 and 4 more" in message
    assert "it has camera_head.a, camera_head.b, depth_head.a" in message
    assert "with the prefix 'model.'" in message


def test_both_shapes_are_named(tmp_path):
    path = saved(tmp_path / "x.pt", WANTED)
    message = refuse(path, shapes=SHAPES | {"blocks.0.weight": (3, 2), "absent": (1,)})
    assert "1 of 7 tensors of another shape: blocks.0.weight (file: [2, 3], model: [3, 2])" in message
    assert "1 of 7 tensors missing: absent" in message


def broken(path: Path, kind: str) -> Path:
    saved(path, WANTED)
    content = path.read_bytes()
    new = {
        "empty": b"",
        "cut": content[:-40],
        "half": content[: len(content) // 2],
        "page": b"<html>Sign in</html>" * 20,
        "zeros": bytes(200),
    }
    path.write_bytes(new[kind])
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("kind", ["empty", "cut", "half", "page", "zeros"])
def test_a_broken_file_is_named(tmp_path, suffix, kind):
    path = broken(tmp_path / f"x{suffix}", kind)
    message = refuse(path)
    assert message.startswith(f"{path} is damaged or ")
    assert message.endswith(f"Remove {path} and download it again.")
    assert "weights_only" not in message
    assert len(message) < 400 + 2 * len(str(path))


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    (tmp_path / name).write_bytes(b"version https://git-lfs\noid sha256:0\nsize 3\n")
    assert "git lfs pull" in refuse(tmp_path / name)


def test_the_file_to_remove_is_the_one_behind_a_link(tmp_path):
    target = broken(tmp_path / "blob.safetensors", "cut")
    (tmp_path / "x.safetensors").symlink_to(target)
    assert refuse(tmp_path / "x.safetensors").endswith(f"Remove {target} and download it again.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "no named tensors but a list"),
        ({"epoch": 3}, "no named tensors but a dict"),
        ({"a": torch.ones(2), "when": datetime.timedelta(3)}, "other Python objects than tensors"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, words):
    message = refuse(saved(tmp_path / "x.pt", content))
    assert words in message
    assert "weights_only" not in message


def test_a_checkpoint_from_before_the_zip_format(tmp_path):
    torch.save(WANTED, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert same(read(tmp_path / "x.bin")[0])


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_file_that_is_not_there(tmp_path, name):
    assert f"Cannot read the weight file {tmp_path / name}" in refuse(tmp_path / name)


def test_the_digest_is_what_its_description_says():
    lines = []
    for name, kind, shape in (("b", "bfloat16", "[2,1]"), ("z", "float32", "[]")):
        data = {"b": struct.pack("<2H", 0x3F80, 0x4000), "z": struct.pack("<f", 3.0)}[name]
        lines.append(f"{name} {kind} {shape} {hashlib.sha256(data).hexdigest()}\n")
    tensors = {"z": torch.tensor(3.0), "b": torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16)}
    assert digest(tensors) == f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def test_the_digest_sees_values_names_shapes_and_types_but_no_strides():
    square = torch.arange(4.0).reshape(2, 2)
    base = digest({"a": square})
    assert digest({"a": square.T.contiguous().T.requires_grad_()}) == base
    for other in ({"b": square}, {"a": square.T}, {"a": square.reshape(4)}, {"a": square.view(torch.int32)}, {}):
        assert digest(other) != base


def test_the_report_is_one_line(tmp_path):
    _, report = read(saved(tmp_path / "x.pt", WANTED | OTHER))
    assert str(report) == ("someone/eyes: 6 tensors matched, 3 ignored (camera_head 2, depth_head 1), none missing")
    _, report = read(saved(tmp_path / "x.pt", WANTED))
    assert str(report) == "someone/eyes: 6 tensors matched, none ignored, none missing"
    _, report = read(saved(tmp_path / "x.pt", WANTED | {f"h{index}.x": torch.ones(1) for index in range(7)}))
    assert "7 ignored (h0 1, h1 1, h2 1, h3 1, h4 1 and 2 more)" in str(report)
