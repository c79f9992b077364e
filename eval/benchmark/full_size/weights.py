"""Checkpoints of the released sizes, filled with seeded random numbers: for memory and speed, never for success.

``python -m eval.benchmark.full_size.weights --root=FOLDER`` writes VGGT-1B, Qwen3-0.6B-Base and DINOv2-B under the
released names, shapes, types and, to the byte, file sizes, with nothing to download; of DA3-SMALL and DA3-BASE it
writes the encoder and the camera decoder. About 7.1 GB; ``--models='[DA3-SMALL]'`` selects.
"""

import json
import logging
import math
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model, PretrainedConfig, Qwen3Config, Qwen3Model

from eval.common.cli import run_command
from eval.common.errors import EvalError
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.model.geometry.da3 import DA3CameraDecoder, DA3Encoder
from lerobot_atlasvla.policy.pipelines.byte_tokenizer import make_byte_tokenizer

# Names and shapes of the 1,797 float32 tensors of the released facebook/VGGT-1B, runs of indices collapsed.
VGGT_LIST = Path(__file__).with_name("vggt_1b_tensors.txt")
VGGT_CONFIG = {"embed_dim": 1024, "img_size": 518, "patch_size": 14}
DA3_ENCODERS = {
    "DA3-SMALL": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "DA3-BASE": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
WEIGHTS_NAME = "model.safetensors"

DTYPE_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}
# What transformers writes into its own files; it refuses a file whose metadata name another framework.
TRANSFORMERS_METADATA = {"format": "pt"}

RANGE = re.compile(r"\{(\d+)-(\d+)\}")

STD = 0.02
# What the authors initialize layer scale with: VGGT's own blocks start as almost the identity; those of DINOv2 and DA3,
# which is one, do not.
LAYER_SCALE = 0.01
DINOV2_LAYER_SCALE = 1.0

NOTICE = """# {name}: not the released weights

Random numbers, for size and speed only. Names, shapes, types and file size are those of `{name}`; every value in
`model.safetensors` was drawn from a seed by `python -m eval.benchmark.full_size.weights`.
A policy built on them knows nothing.
"""
TOKENIZER_NOTICE = """
The tokenizer is a stand-in too: one token per byte (257 tokens), because the released one has to be downloaded.
Instructions are several times longer in its tokens.
"""

logger = logging.getLogger(__name__)

Shapes = Mapping[str, Sequence[int]]


def vggt_tensors() -> dict[str, tuple[int, ...]]:
    """Return the 1,797 tensors of VGGT-1B."""
    lines = (line.split() for line in VGGT_LIST.read_text().splitlines() if not line.startswith("#"))
    return {name: tuple(map(int, sizes)) for pattern, *sizes in lines for name in _expanded(pattern)}


def _expanded(pattern: str) -> list[str]:
    """Return the names that ``pattern`` stands for: ``a.0.b``, ``a.1.b``, ``a.2.b`` for ``a.{0-2}.b``."""
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    tails = _expanded(pattern[match.end() :])
    indices = range(int(match[1]), int(match[2]) + 1)
    return [f"{pattern[: match.start()]}{index}{tail}" for index in indices for tail in tails]


def qwen3_config() -> Qwen3Config:
    """Return the configuration of Qwen3-0.6B-Base."""
    sizes: dict[str, Any] = {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "architectures": ["Qwen3ForCausalLM"],
    }
    return Qwen3Config(**sizes)


def dinov2_config() -> Dinov2Config:
    """Return the configuration of DINOv2-B (no registers)."""
    sizes: dict[str, Any] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "patch_size": 14,
        "image_size": 518,
        "dtype": "float32",
        "architectures": ["Dinov2Model"],
    }
    return Dinov2Config(**sizes)


def module_tensors(make: Callable[[], nn.Module], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the module that ``make`` builds, without memory for its weights."""
    with torch.device("meta"):
        module = make()
    return {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def qwen3_tensors(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a released Qwen3 with tied embeddings: no ``lm_head``."""
    return module_tensors(lambda: Qwen3Model(config), prefix="model.")


def dinov2_tensors(config: Dinov2Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a released DINOv2."""
    return module_tensors(lambda: Dinov2Model(config))


def da3_tensors(name: str) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a released DA3's encoder and camera decoder; the Hub's file has its depth head too."""
    sizes = DA3_ENCODERS[name]
    return module_tensors(lambda: DA3Encoder(**sizes), prefix="model.backbone.pretrained.") | module_tensors(
        lambda: DA3CameraDecoder(2 * sizes["embed_dim"]), prefix="model.cam_dec."
    )


def draw_tensor(name: str, shape: Sequence[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Draw values that keep activations finite in a network of any depth; they depend on name and seed alone."""
    if name.endswith("bias"):
        return torch.zeros(*shape, dtype=dtype)
    if name.endswith((".gamma", ".lambda1")):
        # VGGT's patch embedder is a DINOv2; transformers calls the same thing lambda1.
        dinov2 = name.endswith(".lambda1") or ".patch_embed." in name or ".pretrained." in name
        return torch.full(tuple(shape), DINOV2_LAYER_SCALE if dinov2 else LAYER_SCALE, dtype=dtype)
    if name.endswith(".weight") and len(shape) == 1:
        # A norm: whatever it is called, no other layer has weights of one dimension.
        return torch.ones(*shape, dtype=dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
    return torch.empty(*shape, dtype=dtype).normal_(0.0, STD, generator=generator)


def make_header(tensors: Shapes, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> bytes:
    """Make the first bytes of a safetensors file whose tensors follow in the order of their names.

    The layout is the library's own: it sorts by type, then by name, and pads the JSON with spaces so that the data
    begin at a multiple of eight.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + math.prod(tensors[name]) * dtype.itemsize
        entries[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(tensors[name]), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def checkpoint_size(tensors: Shapes, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> int:
    """Return the size in bytes of the file that :func:`write_random_checkpoint` writes."""
    values = sum(math.prod(shape) for shape in tensors.values())
    return len(make_header(tensors, dtype, metadata)) + values * dtype.itemsize


def write_random_checkpoint(
    file: Path, tensors: Shapes, dtype: torch.dtype, seed: int, metadata: Mapping[str, str] | None = None
) -> int:
    """Write a safetensors file of random numbers with one tensor in memory at a time; return its bytes.

    The file appears under its name only when it is complete. A file already there is replaced.

    Args:
        file: Where to write; its folder must exist.
        tensors: Shape by name.
        dtype: Type of all tensors, float32 or bfloat16.
        seed: Same seed, same bytes (with the same torch).
        metadata: Text for the header's ``__metadata__``; None leaves it out.
    """
    header = make_header(tensors, dtype, metadata)
    with replacing(file) as scratch, scratch.open("wb") as stream:
        stream.write(header)
        for name in sorted(tensors):
            values = draw_tensor(name, tensors[name], dtype, seed)
            # As bytes: NumPy knows no bfloat16.
            stream.write(values.reshape(-1).view(torch.uint8).numpy())
        return stream.tell()


@dataclass(frozen=True)
class Release:
    """Describe what the folder of one released model holds."""

    name: str
    tensors: Shapes
    dtype: torch.dtype
    config: PretrainedConfig | Mapping[str, Any]
    """Plain values for VGGT and DA3, which are no transformers models."""
    whole: bool = True
    """Whether the released file holds nothing else."""

    @property
    def metadata(self) -> dict[str, str] | None:
        """Return the metadata of the weights file; VGGT's own file has none."""
        return TRANSFORMERS_METADATA if isinstance(self.config, PretrainedConfig) else None

    def write_texts(self, folder: Path) -> None:
        """Write everything but the weights."""
        notice = NOTICE.format(name=self.name)
        if isinstance(self.config, PretrainedConfig):
            self.config.save_pretrained(folder)
        else:
            (folder / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        if isinstance(self.config, Qwen3Config):
            make_byte_tokenizer().save_pretrained(folder)
            notice += TOKENIZER_NOTICE
        (folder / "README.md").write_text(notice)


def releases() -> list[Release]:
    """Return the models at their released size."""
    qwen3, dinov2 = qwen3_config(), dinov2_config()
    return [
        Release("VGGT-1B", vggt_tensors(), torch.float32, VGGT_CONFIG),
        Release("Qwen3-0.6B-Base", qwen3_tensors(qwen3), torch.bfloat16, qwen3),
        Release("dinov2-base", dinov2_tensors(dinov2), torch.float32, dinov2),
        *(
            Release(name, da3_tensors(name), torch.float32, {"model_name": name.lower()}, whole=False)
            for name in DA3_ENCODERS
        ),
    ]


def write_release(release: Release, root: Path, seed: int) -> bool:
    """Write one model's folder; return False if it was complete already.

    Raises:
        FileExistsError: If there are weights of another size, which this program cannot have written.
    """
    folder = root / release.name
    file = folder / WEIGHTS_NAME
    expected = checkpoint_size(release.tensors, release.dtype, release.metadata)
    if file.exists():
        found = file.stat().st_size
        if found < expected or (release.whole and found > expected):
            # Possibly a download that took hours.
            raise FileExistsError(
                f"{file} has {found:,} bytes, {release.name} has {expected:,}. Delete it, or choose another --root."
            )
        logger.info("%s is complete and stays as it is; delete it to have it written again.", file)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    release.write_texts(folder)
    started = time.monotonic()
    size = write_random_checkpoint(file, release.tensors, release.dtype, seed, release.metadata)
    logger.info("%s: %s tensors, %s bytes, %.0f s", file, len(release.tensors), f"{size:,}", time.monotonic() - started)
    return True


@dataclass
class FullSizeWeightsConfig:
    """Write random checkpoints of the released sizes."""

    # Folder for VGGT-1B/, Qwen3-0.6B-Base/ and so on; a model that is complete there is left as it is.
    root: Path
    # Which of them to write; unset: all.
    models: list[str] | None = None
    # Seed of the random numbers.
    seed: int = 0


def run(cfg: FullSizeWeightsConfig, _: str) -> None:
    """Write what is missing; the last line of output says what that was."""
    # Forced: importing LeRobot leaves a handler behind, at which basicConfig would do nothing and INFO stay silent.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    started = time.monotonic()
    known = {release.name: release for release in releases()}
    wanted = known if cfg.models is None else cfg.models
    if unknown := [name for name in wanted if name not in known]:
        raise EvalError(f"no model {', '.join(unknown)}; there are {', '.join(known)} (--models).")
    written = [name for name in wanted if write_release(known[name], cfg.root, cfg.seed)]
    seconds = time.monotonic() - started
    sys.stdout.write(f"full-size weights: {', '.join(written) or 'nothing'} written to {cfg.root}, {seconds:.0f} s\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when the models are there."""
    return run_command("eval.benchmark.full_size.weights", FullSizeWeightsConfig, run, argv)


if __name__ == "__main__":
    sys.exit(main())
