"""Checkpoint folders with any file changed at random: they act as before, act finitely, or are refused with a reason.

Never another error, an action that is not finite, or code that runs. Seeded, so that a failure comes back.
"""

import copy
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from draccus.utils import DraccusException
from lerobot.policies.factory import make_pre_post_processors
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.model.sizes import memory
from tests.conftest import IMAGE, STATE, TASK, WRIST, raw_batch

REFUSED = (ValueError, FileNotFoundError, DraccusException)
DEVICE = {"device_processor": {"device": "cpu"}}
VALUES = (
    *(None, True, False, 0, 1, -1, 3, 10**9, 2**70, 0.5, 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "cuda", "os.system", "../x", "MEAN_STD", "IDENTITY", [], {}, [1], ["x"], {"x": 1}, [[]], "y" * 5000),
)
DTYPES = (torch.int32, torch.uint8, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn)


def act(folder: Path) -> torch.Tensor:
    """What a robot gets, as in the README."""
    policy = AtlasVLAPolicy.from_pretrained(folder)
    preprocess, postprocess = make_pre_post_processors(policy.config, str(folder), preprocessor_overrides=DEVICE)
    raw = raw_batch(1)
    return postprocess(
        policy.select_action(preprocess({key: raw[key] for key in (IMAGE, WRIST, STATE)} | {"task": TASK}))
    )


def json_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def tensor_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def change_json(folder: Path, rng: random.Random) -> str:
    """Replace, drop or double one value anywhere in one of the JSON files."""
    file = rng.choice(json_files(folder))
    content = json.loads(file.read_text())
    places = []

    def walk(node) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(content)
    node, key = rng.choice(places)
    what = rng.choice(("value", "value", "value", "drop", "double"))
    if what == "value":
        node[key] = rng.choice(VALUES)
    elif what == "drop":
        del node[key]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[f"{key}x"] = node[key]
    file.write_text(json.dumps(content))
    return f"{file.name}: {what} at {key!r}"


def change_bytes(folder: Path, rng: random.Random) -> str:
    """Flip, cut off, add or blank bytes of any file."""
    file = rng.choice(sorted(folder.iterdir()))
    data = bytearray(file.read_bytes())
    what = rng.choice(("flip", "flip header", "cut", "add", "blank", "empty", "pointer"))
    if what.startswith("flip"):
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 400) if what == "flip header" else len(data))] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del data[rng.randrange(len(data)) :]
    elif what == "add":
        data += rng.randbytes(rng.randint(1, 100))
    elif what == "blank":
        start = rng.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    else:
        data = bytearray(b"version https://git-lfs.github.com/spec/v1\n" if what == "pointer" else b"")
    file.write_bytes(data)
    return f"{file.name}: {what}"


def change_tensor(folder: Path, rng: random.Random) -> str:
    """Another number, type, shape or name for one tensor of one file."""
    file = rng.choice([*tensor_files(folder), folder / "model.safetensors"])
    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    what = rng.choice(("number", "number", "dtype", "shape", "drop", "rename", "extra"))
    if what == "number" and tensor.is_floating_point():
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice((math.nan, math.inf, -math.inf, 3e38, -1e30, 0.0))
    elif what == "dtype":
        tensors[name] = tensor.to(rng.choice(DTYPES))
    elif what == "shape":
        tensors[name] = rng.choice((tensor.flatten()[:-1], tensor[None], tensor.flatten(), tensor[..., :0])).clone()
    elif what == "drop":
        del tensors[name]
    elif what == "rename":
        tensors[f"{name}.x"] = tensors.pop(name)
    else:
        tensors["extra"] = torch.zeros(3)
    save_file(tensors, file, metadata=metadata)
    return f"{file.name}: {what} of {name}"


def change_files(folder: Path, rng: random.Random) -> str:
    """Remove a file, put a folder in its place, or swap two."""
    one, other = rng.sample(sorted(folder.iterdir()), 2)
    what = rng.choice(("remove", "folder", "swap"))
    if what == "swap":
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    else:
        one.unlink()
        if what == "folder":
            one.mkdir()
    return f"{what} {one.name}, {other.name}"


@pytest.fixture
def bounded(monkeypatch):
    """No file may make a policy believe in more memory than this."""
    monkeypatch.setattr(memory, "available_memory", lambda: 64 * 2**20)


@pytest.fixture
def no_code(monkeypatch):
    """What files could run, if they could."""

    def ran(*_, **__):
        raise AssertionError("code ran")

    for name in ("os.system", "subprocess.Popen.__init__", "builtins.exec"):
        monkeypatch.setattr(name, ran)


def check_one(checkpoint: Path, folder: Path, seed: int) -> str | None:
    """Return the reason of a refusal, or ``None`` if the changed checkpoint acts."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder)
    done = rng.choice((change_json, change_json, change_bytes, change_tensor, change_tensor, change_files))(folder, rng)
    try:
        action = act(folder)
    except REFUSED as error:
        return f"{done}: {error}"
    except Exception as error:
        raise AssertionError(f"seed {seed}, {done}: {type(error).__name__}: {error}") from error
    assert action.shape == (1, 7), (seed, done)
    assert action.isfinite().all(), (seed, done)
    return None


def check_some(checkpoint: Path, folder: Path, seeds: range) -> None:
    reasons = [check_one(checkpoint, folder, seed) for seed in seeds]
    assert any(reasons)
    assert max(len(reason or "") for reason in reasons) < 5000


@pytest.mark.usefixtures("bounded", "no_code")
def test_changed_checkpoints(checkpoint, tmp_path):
    check_some(checkpoint, tmp_path / "changed", range(12))


@pytest.mark.slow
@pytest.mark.usefixtures("bounded", "no_code")
def test_more_changed_checkpoints(checkpoint, tmp_path):
    check_some(checkpoint, tmp_path / "changed", range(12, 80))


def test_changes_that_mean_nothing_change_nothing(checkpoint, tmp_path):
    """Another layout of the JSON, another order of its keys, wider weights, a file that nobody asked for."""
    expected = act(checkpoint)
    folder = shutil.copytree(checkpoint, tmp_path / "same")
    for file in json_files(folder):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(dict(reversed(content.items())), indent=1))
    weights = folder / "model.safetensors"
    with safe_open(weights, framework="pt") as handle:
        metadata = handle.metadata()
    wider = {name: t.double() if t.is_floating_point() else t for name, t in load_file(weights).items()}
    save_file(wider, weights, metadata=metadata)
    (folder / "notes.txt").write_text("import os")
    assert torch.equal(act(folder), expected)
