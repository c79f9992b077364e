"""From a configuration to backbones with weights: find them, read them, account for them, freeze them.

A part is ``vggt``, ``language`` or ``vision_tower``. A pretrained part is built without memory and filled from its
source; a random one is built as it is. What was read from where is recorded in the configuration.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_atlasvla.byte_tokenizer import VOCAB_SIZE
from lerobot_atlasvla.config_checks import DINOV2_PATCH_SIZE
from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.language import small_qwen3

from .download import Located, WeightsError, locate
from .tensor_files import LoadReport, digest, read_tensors
from .vggt_state_dict import AGGREGATOR_PREFIX, from_vggt, to_vggt

logger = logging.getLogger(__name__)

DEFAULT_LANGUAGE = "Qwen/Qwen3-0.6B-Base"
FALLBACK_LANGUAGE = "Qwen/Qwen2-0.5B"
# facebook/dinov2-base, for a tower that is asked for at random.
DINOV2_BASE = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 518,
    "patch_size": DINOV2_PATCH_SIZE,
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class Part:
    """One backbone and the settings it has.

    Attributes:
        name: ``vggt``, ``language`` or ``vision_tower``.
        model_field: Setting that names the weights.
        prefixes: What the checkpoint may put before the tensors' names.
        companions: Small files wanted beside the weights.
    """

    name: str
    model_field: str
    prefixes: tuple[str, ...]
    companions: tuple[str, ...]

    @property
    def revision_field(self) -> str:
        """Setting that names the commit, tag or branch."""
        return f"{self.name}_revision"

    @property
    def flag(self) -> str:
        """The command-line flag of ``model_field``."""
        return f"--policy.{self.model_field}"

    @property
    def advice(self) -> str:
        """The way out that needs no download."""
        return f"or start this part from random weights with --policy.{self.name}_init=random"


PARTS = {
    part.name: part
    for part in (
        Part("vggt", "vggt_model", (AGGREGATOR_PREFIX, ""), ()),
        Part("language", "language_model", ("model.", ""), ("config.json", *_TOKENIZER_FILES)),
        Part("vision_tower", "vision_tower", ("", "dinov2."), ("config.json",)),
    )
}


def used_parts(config: AtlasVLAConfig) -> list[str]:
    """The backbones that this configuration has."""
    if config.is_blind:
        return ["language"]
    return ["vggt", "language"] + (["vision_tower"] if config.vision == "dinov2" else [])


def pretrained_parts(config: AtlasVLAConfig) -> list[str]:
    """Those whose weights come from a named source."""
    return [name for name in used_parts(config) if getattr(config, f"{name}_init") == "pretrained"]


def announce_random(config: AtlasVLAConfig) -> None:
    """Say loudly which backbones start at random."""
    random = [name for name in used_parts(config) if getattr(config, f"{name}_init") == "random"]
    if random:
        asked = ", ".join(f"{name}_init=random" for name in random)
        logger.warning("AtlasVLA starts from RANDOM weights, as asked: %s.", asked)


def find(config: AtlasVLAConfig, name: str, *, exactly: bool = False, revision: str | None = None) -> Located:
    """Find the weights of a pretrained part.

    For the default language model alone there is a substitute, used loudly: the configuration then names it.

    Args:
        config: The configuration.
        name: The part.
        exactly: No substitute, because a checkpoint was made with this very part.
        revision: A recorded commit, instead of the configured one.

    Raises:
        WeightsError: If they can't be had; the message names the command that fetches them and the flags.
    """
    part = PARTS[name]
    source = getattr(config, part.model_field)
    wanted = revision or getattr(config, part.revision_field)
    # A checkpoint that refers to a backbone is of no use with random weights in its place.
    advice = "" if exactly else part.advice
    try:
        # A checkpoint brings its own architecture and tokenizer.
        companions = () if exactly else part.companions
        return locate(source, revision=wanted, companions=companions, flag=part.flag, advice=advice)
    except WeightsError as error:
        if source != DEFAULT_LANGUAGE or exactly or config.language_revision:
            raise
        try:
            located = locate(FALLBACK_LANGUAGE, companions=part.companions, flag=part.flag, advice=part.advice)
        except WeightsError:
            raise WeightsError(f"{error} (Its substitute {FALLBACK_LANGUAGE} can't be had either.)") from error
        why = f"{source} could not be had, {FALLBACK_LANGUAGE} takes its place"
        logger.warning("FALLBACK: %s. %s", why, error)
        config.language_model = FALLBACK_LANGUAGE
        config.backbone_sources["language"] = {"fallback": why}
        return located


def find_again(config: AtlasVLAConfig, name: str) -> Located:
    """Find the weights that a part was filled from: at the recorded commit, unless the setting now names others.

    Raises:
        WeightsError: If they can't be had; there is no substitute.
    """
    known = config.backbone_sources.get(name, {})
    same = known.get("source") == getattr(config, PARTS[name].model_field)
    return find(config, name, exactly=True, revision=known.get("revision") or None if same else None)


def architectures(config: AtlasVLAConfig, located: Mapping[str, Located]) -> dict[str, dict[str, Any]]:
    """Transformers' configuration of the language model and, where there is one, of the vision tower.

    Args:
        config: The configuration; architectures it has recorded are used for parts that are not in ``located``.
        located: Where freshly named parts were found; their ``config.json`` is read.

    Raises:
        WeightsError: If a ``config.json`` is missing or unreadable.
    """
    found = dict(config.backbone_architectures)
    if config.language_init == "random":
        found["language"] = small_qwen3(
            vocab_size=VOCAB_SIZE,
            hidden_size=config.language_hidden_size,
            num_layers=config.language_num_layers,
            num_heads=config.language_num_heads,
            max_length=config.tokenizer_max_length,
        )
    if "vision_tower" in used_parts(config) and config.vision_tower_init == "random":
        found.setdefault("vision_tower", DINOV2_BASE)
    for name in located.keys() - {"vggt"}:
        found[name] = _read_architecture(located[name], PARTS[name].flag)
    lacking = [name for name in used_parts(config) if name != "vggt" and name not in found]
    if lacking:
        raise WeightsError(
            f"config.json has no entry backbone_architectures.{lacking[0]}, without which the checkpoint's network "
            "can't be built. Use the config.json it was saved with."
        )
    if "vision_tower" in used_parts(config) and found["vision_tower"].get("patch_size") != DINOV2_PATCH_SIZE:
        raise WeightsError(
            f"The vision tower must cut images into patches of {DINOV2_PATCH_SIZE} pixels, as DINOv2 does; "
            f"{config.vision_tower} has patch_size {found['vision_tower'].get('patch_size')} (--policy.vision_tower)."
        )
    return found


def _read_architecture(located: Located, flag: str) -> dict[str, Any]:
    file = located.folder / "config.json"
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{located.name} needs a readable config.json beside its weights, in {located.folder}: {error} ({flag})."
        ) from error
    # How the weights are stored and who wrote the file is not architecture.
    return {key: value for key, value in content.items() if key not in ("torch_dtype", "dtype", "transformers_version")}


def frozen_dtype(config: AtlasVLAConfig) -> torch.dtype:
    """Dtype of frozen backbones: bfloat16 on a GPU, float32 on a CPU, unless one is asked for."""
    if config.backbone_dtype == "auto":
        return torch.bfloat16 if torch.device(config.device or "cpu").type == "cuda" else torch.float32
    return getattr(torch, config.backbone_dtype)


def part_dtype(config: AtlasVLAConfig, name: str) -> torch.dtype:
    """Dtype of one part's weights: whatever learns is float32."""
    return frozen_dtype(config) if config.is_frozen(name) else torch.float32


def read(config: AtlasVLAConfig, name: str, module: nn.Module, located: Located) -> tuple[LoadReport, str]:
    """Fill a part that was built without memory from the weights it was found in.

    Returns:
        What was read, and the part's :func:`fingerprint`.

    Raises:
        WeightsError: For a tensor that is missing or has another shape, by its name in the checkpoint.
    """
    part = PARTS[name]
    shapes = {key: tuple(tensor.shape) for key, tensor in _released_names(name, module).items()}
    try:
        tensors, report = read_tensors(located.weights, shapes, source=located.name, prefixes=part.prefixes)
    except WeightsError as error:
        raise WeightsError(f"{error} ({part.flag})") from error
    logger.info("%s", report)
    dtype = part_dtype(config, name)
    as_stored = all(tensor.dtype == dtype for tensor in tensors.values())
    fill(module, from_vggt(tensors) if name == "vggt" else tensors, dtype)
    # Weights that were not cast have been hashed while they were read.
    return report, report.digest if as_stored else fingerprint(name, module)


def fingerprint(name: str, module: nn.Module) -> str:
    """Digest of a part's weights as they are now, in their present dtype; wherever they are, the same."""
    return digest({key: tensor.detach().cpu() for key, tensor in _released_names(name, module).items()})


def _released_names(name: str, module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return to_vggt(state) if name == "vggt" else state


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Put tensors in place of a module's parameters, cast to ``dtype``; no second copy where it is theirs already."""
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)


def record(config: AtlasVLAConfig, name: str, located: Located, report: LoadReport) -> None:
    """Write down in the configuration what a part was filled from."""
    entry = {"source": located.name, "revision": located.revision, "digest": report.digest}
    # Whoever asked first (the processors, for the tokenizer) may have recorded a substitute already.
    before = config.backbone_sources.get(name, {}).get("fallback", "")
    notes = [note for note in (before, located.fallback) if note]
    if notes:
        entry["fallback"] = ". ".join(dict.fromkeys(notes))
    config.backbone_sources[name] = entry


def read_again(config: AtlasVLAConfig, name: str, module: nn.Module) -> str:
    """Fill a part that a checkpoint refers to, and verify that it is the one the checkpoint was made with.

    Returns:
        The part's :func:`fingerprint`.

    Raises:
        WeightsError: If it can't be found, or its digest is another one.
    """
    part = PARTS[name]
    known = config.backbone_sources.get(name, {})
    if "digest" not in known:
        raise WeightsError(
            f"The checkpoint refers to {name} by source and digest, but its config.json has no entry "
            f"backbone_sources.{name}. Use the config.json it was saved with."
        )
    named = getattr(config, part.model_field)
    located = find_again(config, name)
    report, mark = read(config, name, module, located)
    if report.digest != known["digest"]:
        raise WeightsError(
            f"The {name} weights of {named} are not the ones this checkpoint was made with ({known['source']}"
            f"{' at ' + known['revision'] if known.get('revision') else ''}): digest {report.digest}, expected "
            f"{known['digest']}. Point {part.flag} to the right ones."
        )
    return mark


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a part's parameters; its buffers, such as rotary frequencies, stay float32."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
