"""Random checkpoints: the released sizes to the byte, the library's own file layout, nothing half-written."""

import json
import logging
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import AutoModel, AutoTokenizer, Qwen3Config

from eval.benchmark.full_size import weights as full_size_weights
from eval.benchmark.full_size.weights import (
    TRANSFORMERS_METADATA,
    Release,
    checkpoint_size,
    draw_tensor,
    main,
    releases,
    vggt_tensors,
    write_random_checkpoint,
    write_release,
)

TENSORS = {
    "aggregator.frame_blocks.10.attn.qkv.weight": (6, 2),
    "aggregator.frame_blocks.9.attn.qkv.bias": (6,),
    "aggregator.frame_blocks.9.ls1.gamma": (2,),
    "aggregator.patch_embed.blocks.0.ls1.gamma": (2,),
    "aggregator.camera_token": (1, 2, 1, 3),
    "camera_head.trunk_norm.weight": (5,),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metadata", [None, TRANSFORMERS_METADATA], ids=["bare", "metadata"])
def test_file_is_byte_for_byte_what_safetensors_writes(tmp_path, dtype, metadata):
    file = tmp_path / "model.safetensors"
    size = write_random_checkpoint(file, TENSORS, dtype, seed=3, metadata=metadata)
    tensors = load_file(file)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == TENSORS
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    for name, shape in TENSORS.items():
        assert torch.equal(tensors[name], draw_tensor(name, shape, dtype, seed=3)), name
    assert file.read_bytes() == save(tensors, metadata)
    assert size == file.stat().st_size == checkpoint_size(TENSORS, dtype, metadata)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == metadata


def test_header_without_metadata_has_only_tensors(tmp_path):
    file = tmp_path / "model.safetensors"
    write_random_checkpoint(file, TENSORS, torch.float32, seed=0)
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    assert list(json.loads(content[8 : 8 + length])) == sorted(TENSORS)


def test_seed_decides_the_bytes(tmp_path):
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        write_random_checkpoint(file, TENSORS, torch.float32, seed)
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


def test_values_are_those_of_a_fresh_network():
    values = {name: draw_tensor(name, shape, torch.float32, seed=0) for name, shape in TENSORS.items()}
    assert (values["aggregator.frame_blocks.9.attn.qkv.bias"] == 0).all()
    assert values["aggregator.frame_blocks.9.ls1.gamma"].tolist() == pytest.approx([0.01, 0.01])
    assert values["aggregator.patch_embed.blocks.0.ls1.gamma"].tolist() == [1, 1]
    assert values["camera_head.trunk_norm.weight"].tolist() == [1] * 5
    matrix = draw_tensor("fc.weight", (200, 200), torch.float32, seed=0)
    assert matrix.std().item() == pytest.approx(0.02, rel=0.05)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(name, shape, dtype, seed):
        if name.startswith("camera_head"):
            raise KeyboardInterrupt
        return draw_tensor(name, shape, dtype, seed)

    monkeypatch.setattr(full_size_weights, "draw_tensor", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "model.safetensors", TENSORS, torch.float32, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_released_files():
    """Bytes of model.safetensors in facebook/VGGT-1B, Qwen/Qwen3-0.6B-Base and facebook/dinov2-base."""
    sizes = {one.name: checkpoint_size(one.tensors, one.dtype, one.metadata) for one in releases()}
    da3 = {name: sizes.pop(name) for name in ("DA3-SMALL", "DA3-BASE")}
    assert sizes == {"VGGT-1B": 5_026_367_224, "Qwen3-0.6B-Base": 1_192_135_096, "dinov2-base": 346_345_912}
    # Without their depth heads; the headers are the smaller part.
    assert da3 == {"DA3-SMALL": pytest.approx(93e6, rel=0.01), "DA3-BASE": pytest.approx(365e6, rel=0.01)}
    assert len(vggt_tensors()) == 1797


def tiny_qwen3() -> Release:
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Release("tiny", full_size_weights.qwen3_tensors(config), torch.bfloat16, config)


def test_a_language_model_folder_loads_with_transformers(tmp_path: Path):
    release = tiny_qwen3()
    assert write_release(release, tmp_path, seed=0)
    model, info = AutoModel.from_pretrained(tmp_path / "tiny", dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    tokens = AutoTokenizer.from_pretrained(tmp_path / "tiny")(["put the bowl on the plate"], return_tensors="pt")
    assert model(**tokens).last_hidden_state.isfinite().all()
    assert "Random numbers" in (tmp_path / "tiny" / "README.md").read_text()


def test_a_complete_folder_is_left_alone(tmp_path: Path):
    release = tiny_qwen3()
    write_release(release, tmp_path, seed=0)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "tiny").iterdir()}
    assert not write_release(release, tmp_path, seed=1)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "tiny").iterdir()} == before


def test_weights_of_another_size_are_not_overwritten(tmp_path: Path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"somebody's download")
    with pytest.raises(FileExistsError, match=r"19 bytes.*choose another --root"):
        write_release(tiny_qwen3(), tmp_path, seed=0)
    assert [file.name for file in folder.iterdir()] == ["model.safetensors"]


def test_command_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(full_size_weights, "releases", lambda: [tiny_qwen3()])
    # It would take pytest's own handlers away from the tests that follow.
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    assert main(["--seed=3"]) == 2
    assert "--root must be given" in capsys.readouterr().err
    assert main([f"--root={tmp_path}", "--seed=3"]) == 0
    assert "tiny written to" in capsys.readouterr().out
    assert main([f"--root={tmp_path}"]) == 0
    assert "nothing written to" in capsys.readouterr().out
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"")
    assert main([f"--root={tmp_path}"]) == 1
    assert "has 0 bytes" in capsys.readouterr().err
    assert main([f"--root={tmp_path}", "--models=[VGGT-1B]"]) == 1
    assert "no model VGGT-1B; there are tiny (--models)" in capsys.readouterr().err
