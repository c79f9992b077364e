"""LoRA and the like (``lerobot-train --peft.*``): what is adapted, and how the base comes back without a checkpoint.

An adapter's checkpoint holds the adapter and the fully trained new layers. When training started from pretrained
backbones and no checkpoint, the base is rebuilt from ``config.json`` and the backbones' sources: the adapter then names
:data:`FROM_CONFIG` as its base. Otherwise it names the checkpoint it started from.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from torch import nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.atlasvla import AtlasVLA

from . import backbones, checkpoint

# No valid Hub id on purpose: nobody can publish under this name, and PEFT looks nothing up for it.
FROM_CONFIG = "atlasvla:from-config"
NEEDS_CONFIG = (
    f"{FROM_CONFIG} stands for a policy that is built from its config.json; pass config=, read from the adapter's "
    "folder with PreTrainedConfig.from_pretrained."
)
ADAPTER_CONFIG = "adapter_config.json"
# What PEFT's wrappers put into the names of a state dict.
_WRAPPED = (".base_layer.", ".lora_", ".modules_to_save.", ".original_module.")


def default_targets(config: AtlasVLAConfig, model: AtlasVLA) -> dict[str, Any]:
    """Return what is adapted unless ``--peft.target_modules`` and ``--peft.full_training_modules`` say otherwise.

    Args:
        config: The configuration.
        model: The network, not wrapped yet.

    Returns:
        ``target_modules``, a regular expression on module names: the linear layers in the last third of VGGT's or DA3's
        blocks that run and, with ``peft_language``, the language model's attention. ``modules_to_save``: every part of
        the network that no released checkpoint fills.

    Raises:
        ValueError: If there is nothing to adapt.
    """
    if model.aggregator is None and not config.peft_language:
        raise ValueError(
            "A blind policy (--policy.views=none) has no VGGT to adapt; name modules with --peft.target_modules, or "
            "set --policy.peft_language=true."
        )
    patterns = []
    if model.aggregator is not None:
        run = max((*config.geometry_layers, *model.aggregator.point_layers)) + 1
        last_third = range(run - math.ceil(run / 3), run)
        blocks = "|".join(re.escape(name) for layer in last_third for name in model.aggregator.block_names(layer))
        patterns.append(rf"model\.aggregator\.({blocks})\.(attn\.(qkv|proj)|mlp\.fc[12])")
    if config.peft_language:
        patterns.append(r"model\.language\.backbone\.layers\.\d+\.self_attn\.[qkvo]_proj")
    released = {id(module) for module in model.backbones().values()}
    new = [
        f"model.{name}"
        for name, child in model.named_children()
        if not any(id(module) in released for module in child.modules()) and any(True for _ in child.parameters())
    ]
    return {"target_modules": "|".join(patterns), "modules_to_save": new}


def check_rebuildable(policy: nn.Module, config: AtlasVLAConfig, model: AtlasVLA, kept_whole: Iterable[str]) -> None:
    """Check that sources and the adapter's checkpoint together are the whole policy.

    Args:
        policy: The policy, not wrapped yet.
        config: Its configuration.
        model: Its network.
        kept_whole: PEFT's ``modules_to_save``.

    Raises:
        ValueError: If weights would be in neither.
    """
    parts = model.backbones()
    random = [part for part in backbones.used_parts(config) if getattr(config, f"{part}_init") == "random"]
    if random:
        raise ValueError(
            f"An adapter's checkpoint leaves its base out, and the random weights of {' and '.join(random)} could not "
            f"be had again. Use {' '.join(f'--policy.{part}_init=pretrained' for part in random)}, or train without "
            "--peft first and adapt that checkpoint with --policy.path."
        )
    sources = tuple(checkpoint.prefixes(policy, parts).values())
    entries = tuple(kept_whole)
    lost = sorted(
        {
            ".".join(name.split(".")[:2])
            for name, _ in policy.named_parameters()
            if not name.startswith(sources) and not _inside(name, entries)
        }
    )
    if lost:
        raise ValueError(
            f"{', '.join(lost)} start from random weights, so they have to be trained and saved in full, but "
            f"--peft.full_training_modules is {list(entries)}. Leave it out to get them all, or adapt a checkpoint "
            "with --policy.path."
        )


def _inside(name: str, entries: tuple[str, ...]) -> bool:
    """Return whether a parameter lies in a module whose name ends with one of ``entries``, which is PEFT's rule."""
    steps = name.split(".")
    return any(".".join(steps[:count]).endswith(entries) for count in range(1, len(steps)))


def without_adapter(policy: Any) -> Any:
    """Return the policy inside an adapter (PEFT), or the policy itself if there is none around it.

    An adapter's layers lie inside the policy, so they act in what is returned, too.
    """
    unwrap = getattr(policy, "get_base_model", None)
    return unwrap() if unwrap else policy


def check_whole(path: str | Path) -> None:
    """Refuse to load a folder with an adapter as if it were a whole policy.

    Raises:
        ValueError: If it is one.
    """
    folder = Path(path)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / SAFETENSORS_SINGLE_FILE).is_file():
        raise ValueError(
            f"{folder} holds an adapter and no whole policy. LeRobot's commands load it (--policy.path); in Python use "
            "lerobot.policies.factory.make_policy, and its merge_and_unload() for a policy without an adapter."
        )


def check_unwrapped(names: Iterable[str]) -> None:
    """Refuse to write a policy as a whole while an adapter is inside.

    Raises:
        ValueError: Naming the first tensor that no policy without adapter has.
    """
    inside = next((name for name in names if any(mark in f".{name}." for mark in _WRAPPED)), None)
    if inside is not None:
        raise ValueError(
            f"The policy has an adapter inside ({inside}). Save the adapter with PeftModel.save_pretrained, or merge "
            "it first: policy = peft_model.merge_and_unload()."
        )
