"""Build each policy of ``eval.benchmark`` offline: random weights, processors, observations and batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from eval.benchmark.settings import VARIANTS, presets, settings, split
from lerobot_atlasvla.libero.tasks import IMAGE_KEY, WRIST_IMAGE_KEY

if TYPE_CHECKING:
    import torch

CAMERAS = (IMAGE_KEY, WRIST_IMAGE_KEY)
PIXELS = 256
STATE_DIM = 8
ACTION_DIM = 7
TASK = "pick up the black bowl next to the plate and place it on the plate"
SLIM_NOTE = "checkpoint: computed, without the frozen backbones, which a real one only refers to"

# HuggingFaceTB/SmolVLM2-500M-Video-Instruct, which SmolVLA cuts to its first 16 blocks.
SMOLVLM2_500M = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 49280,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "rope_theta": 100000,
        "rms_norm_eps": 1e-5,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    "scale_factor": 4,
    "tie_word_embeddings": False,
}


@dataclass
class Built:
    """Hold a policy that is ready to act and to learn.

    Attributes:
        policy: On its device, in eval mode.
        preprocess: LeRobot's pipeline before it.
        postprocess: LeRobot's pipeline after it.
        precision: For the report.
        autocast: Dtype of ``torch.autocast`` around its forward pass in training; None for no autocast.
        act_autocast: The same around acting.
        notes: What differs from the policy as it is published.
        referred_bytes: What a real checkpoint leaves out of what this one would write.
    """

    policy: Any
    preprocess: Any
    postprocess: Any
    precision: str
    autocast: torch.dtype | None
    act_autocast: torch.dtype | None
    notes: list[str] = field(default_factory=list)
    referred_bytes: int = 0


def classes(base: str) -> tuple[Any, Any]:
    """Return the configuration and policy class; this is where a policy's imports happen.

    Raises:
        ImportError: If the policy needs a package that is not there.
    """
    import lerobot.policies  # noqa: F401
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    if base in presets():
        import lerobot_atlasvla  # noqa: F401  # Registers "atlasvla".

        base = "atlasvla"
    return PreTrainedConfig.get_choice_class(base), get_policy_class(base)


def build(name: str, device: str, dtype: str, weights: Path | None, overrides: Mapping[str, Any]) -> Built:
    """Build a policy with its processors.

    Args:
        name: As in the module's docstring.
        device: cpu or cuda.
        dtype: float32 or bfloat16, for policies that have such a setting; others run as LeRobot runs them.
        weights: Folder of ``eval.benchmark.full_size.weights``, for AtlasVLA; None builds random weights in memory.
        overrides: Settings that win over all others.

    Raises:
        Exception: Whatever the policy raises; that is its entry in the report.
    """
    import draccus
    import torch
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.types import FeatureType, PolicyFeature

    base, variants = split(name)
    config_class, policy_class = classes(base)
    known = {f.name for f in dataclasses.fields(config_class)}
    values, notes = settings(name, dtype, weights, overrides)
    values |= {"device": device}
    if has_dtype := "dtype" in known:
        values = {**values, "dtype": overrides.get("dtype", dtype)}
    if missing := [f"+{v}" for v in variants if not VARIANTS[v].keys() <= known]:
        raise ValueError(f"{base} has no setting for {missing[0]}")
    config = draccus.decode(PreTrainedConfig, values)
    config.input_features = {key: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)) for key in CAMERAS}
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE_DIM,))
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}

    torch.manual_seed(0)
    with _smolvlm2() if base == "smolvla" else nullcontext():
        policy = policy_class(config)
    precision = f"dtype {config.dtype}" if has_dtype else "float32"
    if base == "smolvla" and dtype == "bfloat16":
        # LeRobot reads the released VLM in bfloat16 (load_vlm_weights); the action expert is float32.
        policy.model.vlm_with_expert.vlm.to(torch.bfloat16)
        precision = "VLM bfloat16, rest float32"
    policy.to(device).eval()
    amp = torch.bfloat16 if "amp" in variants else None
    # As lerobot-train has it: a policy's dtype decides, use_amp only where there is none.
    by_dtype = torch.bfloat16 if has_dtype and config.dtype == "bfloat16" else None
    preprocess, postprocess = processors(config, notes)
    return Built(
        policy,
        preprocess,
        postprocess,
        precision + (", autocast to bfloat16" if amp else ""),
        autocast=by_dtype or amp,
        act_autocast=amp,
        notes=notes,
        referred_bytes=_referred_bytes(policy, weights, notes) if base in presets() else 0,
    )


def _referred_bytes(policy: Any, weights: Path | None, notes: list[str]) -> int:
    """Bytes of the frozen backbones that were drawn at random: with released weights, no checkpoint has them."""
    if weights is not None:
        return 0
    frozen = [module for part, module in policy.model.backbones().items() if policy.config.is_frozen(part)]
    if frozen:
        notes.append(SLIM_NOTE)
    return sum(tensor.numel() * tensor.element_size() for module in frozen for tensor in module.state_dict().values())


@contextmanager
def _smolvlm2() -> Iterator[None]:
    """SmolVLA asks the Hub for its VLM's sizes and tokenizer even if it loads no weights: here they are."""
    from lerobot.policies.smolvla import smolvlm_with_expert as module
    from transformers import SmolVLMConfig

    special = SimpleNamespace(fake_image_token_id=49189, global_image_token_id=49152)
    make_config: Any = SmolVLMConfig
    config = SimpleNamespace(from_pretrained=lambda _: make_config(**SMOLVLM2_500M))
    processor = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(tokenizer=special))
    with patch.object(module, "AutoConfig", config), patch.object(module, "AutoProcessor", processor):
        yield


class RandomTokens:
    """Stand in for a tokenizer that can't be had: as many random ids as there are words."""

    def __call__(self, text: list[str], *, max_length: int, padding: str, **_: Any) -> dict[str, torch.Tensor]:
        """Return ids and mask (B, L); the arguments are a tokenizer's."""
        import torch

        words = min(max_length, max(len(one.split()) for one in text))
        length = max_length if padding == "max_length" else words
        ids = torch.randint(3, 1000, (length,), generator=torch.Generator().manual_seed(0))
        mask = torch.arange(length) < words
        return {"input_ids": ids.repeat(len(text), 1), "attention_mask": mask.long().repeat(len(text), 1)}


def processors(config: Any, notes: list[str]) -> tuple[Any, Any]:
    """Make LeRobot's pipelines around a policy; a tokenizer that is not at hand is replaced, with a note."""
    import torch
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.processor import tokenizer_processor

    stats = {}
    for key, feature in {**config.input_features, **config.output_features}.items():
        shape = (feature.shape[0], 1, 1) if len(feature.shape) == 3 else feature.shape
        low = {f: -torch.ones(shape) for f in ("min", "q01", "q10")}
        high = {f: torch.ones(shape) for f in ("max", "q99", "q90", "std")}
        stats[key] = {**low, **high, "mean": torch.zeros(shape)}
    try:
        return make_pre_post_processors(config, dataset_stats=stats)
    except OSError:
        stand_in = SimpleNamespace(from_pretrained=lambda _: RandomTokens())
        with patch.object(tokenizer_processor, "AutoTokenizer", stand_in):
            found = make_pre_post_processors(config, dataset_stats=stats)
    notes.append("sensor-to-action WITHOUT tokenization: random token ids, the tokenizer is not at hand")
    return found


def raw_observation() -> dict[str, np.ndarray]:
    """Return what a robot's driver hands over: uint8 images (H, W, 3) and a state, in NumPy."""
    random = np.random.default_rng(0)
    images: dict[str, np.ndarray] = {
        key: random.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8) for key in CAMERAS
    }
    return images | {"observation.state": random.uniform(-1, 1, STATE_DIM).astype(np.float32)}


def raw_batch(config: Any, size: int) -> dict[str, Any]:
    """Return what LeRobot's data loader hands over for this policy: images in [0, 1], chunks of actions.

    Args:
        config: The policy's configuration, which says how many steps of what it reads.
        size: Samples.
    """
    import torch

    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    history = () if config.observation_delta_indices is None else (len(config.observation_delta_indices),)
    actions = () if config.action_delta_indices is None else (len(config.action_delta_indices),)
    batch: dict[str, Any] = {key: uniform(size, *history, 3, PIXELS, PIXELS) for key in CAMERAS}
    batch["observation.state"] = uniform(size, *history, STATE_DIM) * 2 - 1
    batch["action"] = uniform(size, *actions, ACTION_DIM) * 2 - 1
    batch["action_is_pad"] = torch.zeros(size, *actions, dtype=torch.bool)
    return batch | {"task": [TASK] * size}
