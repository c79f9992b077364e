"""List the policies that ``eval.benchmark`` knows, and the settings with which each is built without the Hub.

A name is a preset of AtlasVLA (a file of ``configs/policy``) or the type of a policy of LeRobot, with variants after a
plus sign: ``act+amp``. What is written down here is only what LeRobot's own defaults would download or leave open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval.common.errors import EvalError

PRESETS = Path("configs/policy")
DEFAULT_PRESET = "atlasvla_libero"

# The names a variant may have, and what it changes in the configuration.
VARIANTS: dict[str, dict[str, Any]] = {
    "amp": {"use_amp": True},
    "compile": {"compile_model": True},
    "graphs": {"compile_model": True, "compile_mode": "reduce-overhead"},
    # Naming a folder lets the configuration refuse what has no use for a cache; feature_cache.py writes another.
    "cache": {"feature_cache": "in the process", "random_shift": 0, "random_crop": 0.0, "color_jitter": 0.0},
}
ON_CPU_NOTE = "language model in host memory, which is not in a GPU's figures (language_on_cpu)"
CACHE_NOTE = (
    "+cache: in training, the frozen geometry backbone's output is read from a feature cache (memory-mapped, page "
    "cache), without augmentation; writing it is not timed"
)
# Without a GPU these take minutes for one chunk and more memory than most machines have.
GPU_ONLY = ("pi0", "pi05", "pi0_fast")
NOT_ON_A_CPU = "more than 3 B parameters: only on a GPU, unless --policies names it"
# They learn from rewards, not from demonstrations: there is no training step to compare.
FROM_REWARDS = ("gaussian_actor", "tdmpc")

# Settings that name the weights of each part, and their defaults.
RELEASED = {
    "vggt": ("vggt_model", "facebook/VGGT-1B"),
    "da3": ("da3_model", "depth-anything/DA3-SMALL"),
    "language": ("language_model", "Qwen/Qwen3-0.6B-Base"),
    "vision_tower": ("vision_tower", "facebook/dinov2-base"),
}
# Qwen3-0.6B in what can be set of a language model that starts at random.
RANDOM_LANGUAGE = {"language_hidden_size": 1024, "language_num_layers": 28, "language_num_heads": 16}
RANDOM_LANGUAGE_NOTE = (
    "language model: Qwen3-0.6B's width and depth, but bytes for a vocabulary and half the head size, so 0.2 B fewer "
    "parameters (frozen, run once per instruction)"
)

# microsoft/Florence-2-large, as X-VLA-0.9B has it.
FLORENCE2_LARGE = {
    "vision_config": {
        "model_type": "davit",
        "embed_dim": [256, 512, 1024, 2048],
        "num_heads": [8, 16, 32, 64],
        "num_groups": [8, 16, 32, 64],
        "projection_dim": 1024,
    },
    "text_config": {
        "vocab_size": 51289,
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "max_position_embeddings": 4096,
    },
}
# What a baseline's own defaults leave open, or would download.
BASELINES: dict[str, dict[str, Any]] = {
    "act": {"pretrained_backbone_weights": None},
    "smolvla": {"load_vlm_weights": False},
    "xvla": {
        "florence_config": FLORENCE2_LARGE,
        # LIBERO's 7 numbers; the default reads 20, of two arms.
        "action_mode": "auto",
        "resize_imgs_with_padding": [224, 224],
    },
}
BASELINE_NOTES = {
    "act": "ResNet-18 from random weights; no language",
    "smolvla": "SmolVLM2-500M's sizes are built in; its tokenizer's two special ids too",
    "xvla": "Florence-2-large's sizes; images of 224 px; action mode auto",
}


@dataclass(kw_only=True)
class Measurement:
    """Hold what the command and its worker processes share: how a policy is measured."""

    # cpu or cuda; empty takes the GPU if there is one.
    device: str = ""
    # float32 or bfloat16, for policies with such a setting; empty: bfloat16 on a GPU, float32 on a CPU.
    dtype: str = ""
    # Samples per training step.
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 16])
    # Calls and training steps before the timed ones.
    warmup: int = 3
    # Timed chunks per round.
    repetitions: int = 30
    # Timed training steps per batch size and round.
    train_steps: int = 10
    # Threads of PyTorch; 0 leaves that to PyTorch.
    threads: int = 0
    # Memory that a policy may take, GiB; more is recorded as out of memory. Unset: 90 % of what a CPU's machine has
    # free at the start; on a GPU no limit. 0 is no limit.
    memory_limit_gib: float | None = None
    # Seconds that a process may take; it is ended then, and what it has measured is kept.
    timeout_s: int = 1800
    # Folder of eval.benchmark.full_size.weights, for AtlasVLA's backbones. Unset: random weights, no vocabulary.
    weights: Path | None = None


def presets() -> list[str]:
    """Return AtlasVLA's presets, the default one first."""
    names = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_PRESET)


def baselines() -> list[str]:
    """Return LeRobot's policies that learn from demonstrations, ACT and SmolVLA first: ratios need them."""
    import lerobot.policies  # noqa: F401  # Registers them.
    from lerobot.configs.policies import PreTrainedConfig

    names = set(PreTrainedConfig.get_known_choices()) - {"atlasvla", *FROM_REWARDS}
    return ["act", "smolvla", *sorted(names - {"act", "smolvla"})]


def split(name: str) -> tuple[str, list[str]]:
    """Split a name into preset or type, and variants: ``act+amp`` is ``act`` and ``[amp]``."""
    base, *variants = name.split("+")
    return base, variants


def check_names(names: list[str]) -> None:
    """Find names that nobody can build.

    Raises:
        EvalError: For an unknown preset, type or variant.
    """
    for name in names:
        base, variants = split(name)
        if base not in presets() and base not in baselines():
            raise EvalError(
                f"no policy {base!r}: presets in {PRESETS} are {', '.join(presets()) or 'none'} (run this from the "
                f"repository's root), LeRobot has {', '.join(baselines())} (--policies)."
            )
        if unknown := [variant for variant in variants if variant not in VARIANTS]:
            raise EvalError(
                f"{name} has the unknown variant {unknown[0]!r}; there are {', '.join(VARIANTS)} (--policies)."
            )


def settings(
    name: str, dtype: str, weights: Path | None, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a policy by name, without dtype and device, and notes on them.

    Args:
        name: As in the module's docstring.
        dtype: Of frozen backbones.
        weights: Folder of ``eval.benchmark.full_size.weights``; None builds random weights in memory.
        overrides: Settings that win over all others.
    """
    base, variants = split(name)
    notes: list[str] = []
    if base in presets():
        values = yaml.safe_load((PRESETS / f"{base}.yaml").read_text())["policy"]
        changes, notes = _backbones(values, weights)
        # There is no dataset whose actions could be kept.
        values |= changes | {"backbone_dtype": dtype, "actions_in_memory": False}
    else:
        values = {"type": base} | BASELINES.get(base, {})
        notes = [BASELINE_NOTES[base]] if base in BASELINE_NOTES else []
    for variant in variants:
        values |= VARIANTS[variant]
    if "cache" in variants:
        notes = [*notes, CACHE_NOTE]
    values = values | {"push_to_hub": False} | dict(overrides)
    if values.get("language_on_cpu"):
        notes = [*notes, ON_CPU_NOTE]
    return values, notes


def released_folders(values: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return, for each part of a preset, the setting that names its weights and their folder's name.

    The folder is that which ``eval.benchmark.full_size.weights`` writes.

    Args:
        values: The preset's settings of the policy.
    """
    vision = values.get("vision")
    parts = ["da3" if vision == "da3" else "vggt", "language", *(["vision_tower"] if vision == "dinov2" else [])]
    found = {}
    for part in parts:
        setting, default = RELEASED[part]
        found[part] = setting, values.get(setting, default).rsplit("/", 1)[-1]
    return found


def released_of(preset: str) -> dict[str, tuple[str, str]]:
    """Return what :func:`released_folders` knows of a preset, without the parts that start at random."""
    values = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())["policy"]
    return {part: known for part, known in released_folders(values).items() if values.get(f"{part}_init") != "random"}


def _backbones(values: Mapping[str, Any], weights: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Return where a preset's pretrained backbones come from; they stay frozen, or training would be another one."""
    changes: dict[str, Any] = {}
    notes = []
    for part, (setting, folder) in released_folders(values).items():
        if values.get(f"{part}_init") == "random":
            continue
        changes[f"freeze_{part}"] = values.get(f"freeze_{part}", True)
        if weights is not None:
            changes[setting] = str(weights / folder)
            continue
        changes[f"{part}_init"] = "random"
        if part == "language":
            changes |= RANDOM_LANGUAGE
            notes.append(RANDOM_LANGUAGE_NOTE)
    return changes, notes
