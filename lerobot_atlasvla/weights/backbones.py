"""Pretrained backbones of a policy: resolve their sources and read them.

A backbone, or part, is ``vggt`` or ``da3``, ``language``, ``vision_tower``. A pretrained one is built without memory
and filled from its source; a random one is built as it is. A frozen one that is still what its source gave is not
saved (:mod:`.checkpoint`); its fingerprint tells.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.atlasvla import AtlasVLA
from lerobot_atlasvla.model.frozen import freeze
from lerobot_atlasvla.model.language import small_qwen3
from lerobot_atlasvla.model.sizes.architecture import architecture_sizes, da3_sizes
from lerobot_atlasvla.policy import pretrained_geometry
from lerobot_atlasvla.policy.checks.config import DINOV2_PATCH_SIZE, ConfigError, check
from lerobot_atlasvla.policy.checks.landmarks import check_landmarks_of
from lerobot_atlasvla.policy.pipelines.byte_tokenizer import VOCAB_SIZE

from . import download, geometry_files
from .download import ResolvedWeights, WeightsError, listing
from .tensor_files import digest, other_kinds, read_tensors
from .vggt_state_dict import AGGREGATOR_PREFIX, HEADS_PREFIX, OWN_HEADS, from_vggt, is_of_heads, to_vggt

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
    """Describe one backbone and the settings it has.

    Attributes:
        name: ``vggt``, ``da3``, ``language`` or ``vision_tower``.
        model_field: Setting that names the weights.
        prefixes: What the released files may put before the tensors' names.
        companions: Small files wanted beside the weights.
        architecture: Reads what the network is built from off the weights and their companions, and refuses those of
            another model; takes the weights and the flag that names them. ``None``: the configuration says it all.
        check: Refuses the weights of another model, whose names say so; takes the same.
        from_file: Renames tensors of the released files to those of the module.
        to_file: Undoes that.
        bare: What those names in the files begin with that none of ``prefixes`` stands before.
    """

    name: str
    model_field: str
    prefixes: tuple[str, ...]
    companions: tuple[str, ...]
    architecture: Callable[[ResolvedWeights, str], dict[str, Any]] | None = None
    check: Callable[[ResolvedWeights, str], None] | None = None
    from_file: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors
    to_file: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors
    bare: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Return the command-line flag of ``model_field``."""
        return f"--policy.{self.model_field}"


def _read_architecture(resolved: ResolvedWeights, flag: str) -> dict[str, Any]:
    file = resolved.folder / "config.json"
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{resolved.name} needs a readable config.json beside its weights, in {resolved.folder}: {error} ({flag})."
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} must hold an object, got {type(content).__name__} ({flag}).")
    return content


PARTS = {
    part.name: part
    for part in (
        Part(
            "vggt",
            "vggt_model",
            (AGGREGATOR_PREFIX, ""),
            ("config.json",),
            check=geometry_files.check_vggt,
            from_file=from_vggt,
            to_file=to_vggt,
            bare=(HEADS_PREFIX, *OWN_HEADS),
        ),
        Part("da3", "da3_model", geometry_files.DA3_PREFIXES, (), geometry_files.da3_architecture),
        Part("language", "language_model", ("model.", ""), ("config.json", *_TOKENIZER_FILES), _read_architecture),
        Part("vision_tower", "vision_tower", ("", "dinov2."), ("config.json",), _read_architecture),
    )
}


def used_parts(config: AtlasVLAConfig) -> list[str]:
    """Return the backbones that this configuration has."""
    if config.is_blind:
        return ["language"]
    return [config.geometry_backbone, "language"] + (["vision_tower"] if config.vision == "dinov2" else [])


def pretrained_parts(config: AtlasVLAConfig) -> list[str]:
    """Return those whose weights come from a named source."""
    return [name for name in used_parts(config) if getattr(config, f"{name}_init") == "pretrained"]


def announce_random(config: AtlasVLAConfig) -> None:
    """Log a warning that names the backbones that start at random."""
    pretrained = pretrained_parts(config)
    random = [f"{name}_init=random" for name in used_parts(config) if name not in pretrained]
    if random:
        logger.warning("AtlasVLA starts from RANDOM weights, as asked: %s.", ", ".join(random))


def resolve(config: AtlasVLAConfig, name: str) -> ResolvedWeights:
    """Find the weights that a pretrained part's settings name, downloading them if only the Hub has them.

    For the default language model alone there is a substitute, used loudly; the result then bears its name.

    Raises:
        WeightsError: If they can't be had; the message names the command that fetches them and the flags.
    """
    part = PARTS[name]
    source, revision = getattr(config, part.model_field), getattr(config, f"{name}_revision")
    options = {
        "companions": part.companions,
        "flag": part.flag,
        "advice": f"or start this part from random weights with --policy.{name}_init=random",
    }
    if source == DEFAULT_LANGUAGE and not revision:
        return download.resolve_or_substitute(source, FALLBACK_LANGUAGE, **options)
    return download.resolve(source, revision=revision, **options)


def take_sizes(config: AtlasVLAConfig, resolved: Mapping[str, ResolvedWeights]) -> None:
    """Put the sizes of VGGT weights that say themselves what they are into the configuration.

    Args:
        config: The configuration; changed.
        resolved: The weights of parts that are about to be read.

    Raises:
        WeightsError: If their record is damaged, or a setting says something else or does not go with it.
    """
    if "vggt" not in resolved:
        return
    config.backbone_architectures.pop("vggt", None)
    record = geometry_files.vggt_record(resolved["vggt"], PARTS["vggt"].flag)
    if record is None:
        return
    if problem := pretrained_geometry.take_sizes(config, record):
        raise WeightsError(problem)
    # The checks ask for the heads: only now they are known of a backbone from the Hub.
    config.backbone_architectures["vggt"] = pretrained_geometry.saved_entries(config, record)
    try:
        check(config)
    except ConfigError as error:
        raise WeightsError(f"With {resolved['vggt'].name}: {error}") from error


def architectures(config: AtlasVLAConfig, resolved: Mapping[str, ResolvedWeights]) -> dict[str, dict[str, Any]]:
    """Return the sizes that each part is built from, under transformers' names, or DA3's; of VGGT, roles and heads.

    Args:
        config: The configuration; architectures it has recorded are used for parts that are not in ``resolved``.
        resolved: The weights of parts that are about to be read; their ``config.json``, or shapes, are read.

    Raises:
        WeightsError: If a ``config.json`` is missing, unreadable, or has a size that can't be, or the weights are of
            another model.
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
    if "da3" in used_parts(config) and config.da3_init == "random":
        found["da3"] = {name: getattr(config, f"da3_{name}") for name in ("embed_dim", "depth", "num_heads")}
    readers = {name: reader for name in used_parts(config) if (reader := PARTS[name].architecture)}
    for name in resolved.keys() & readers.keys():
        found[name] = readers[name](resolved[name], PARTS[name].flag)
    lacking = [name for name in readers if name not in found]
    if lacking:
        raise WeightsError(
            f"config.json has no entry backbone_architectures.{lacking[0]}, without which the checkpoint's network "
            "can't be built. Use the config.json it was saved with."
        )
    # Damaged shapes of DA3's weights show when all of them are read, with their names.
    by_shape = resolved.keys() & {"da3"}
    known = [*readers, *({"vggt"} & found.keys() if pretrained_geometry.uses_record(config) else ())]
    found = {name: found[name] if name in by_shape else _sizes(name, found[name]) for name in known}
    if "da3" in readers and max(config.da3_output_layers) >= found["da3"]["depth"]:
        raise WeightsError(
            f"{config.da3_model} has {found['da3']['depth']} blocks, so da3_output_layers can't be "
            f"{config.da3_output_layers} (--policy.da3_output_layers)."
        )
    if "vision_tower" in used_parts(config) and found["vision_tower"].get("patch_size") != DINOV2_PATCH_SIZE:
        raise WeightsError(
            f"The vision tower must cut images into patches of {DINOV2_PATCH_SIZE} pixels, as DINOv2 does; "
            f"{config.vision_tower} has patch_size {found['vision_tower'].get('patch_size')} (--policy.vision_tower)."
        )
    return found


def check_points(config: AtlasVLAConfig) -> None:
    """Check that the geometry backbone, of which all is known now, gives the points that the policy reads.

    Raises:
        WeightsError: If it can't.
    """
    try:
        check_landmarks_of(config)
    except ConfigError as error:
        raise WeightsError(f"With {config.vggt_model}: {error}") from error


def _sizes(name: str, architecture: Any) -> dict[str, Any]:
    """Return what may reach the network of an architecture that a file names."""
    readers = {"da3": da3_sizes, "vggt": pretrained_geometry.check_entries}
    try:
        return readers.get(name, architecture_sizes)(architecture)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise WeightsError(
            f"The config.json of the {name.replace('_', ' ')} can't be built: {error} ({PARTS[name].flag})."
        ) from error


def part_dtype(config: AtlasVLAConfig, name: str) -> torch.dtype:
    """Return the dtype of a part's weights: float32 if it learns; frozen, bfloat16 on a GPU unless one is asked for."""
    if not config.is_frozen(name):
        return torch.float32
    if config.backbone_dtype == "auto":
        return torch.bfloat16 if torch.device(config.device or "cpu").type == "cuda" else torch.float32
    return getattr(torch, config.backbone_dtype)


def tensor_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of one tensor of a part: VGGT's heads stay float32, for bfloat16 rounds 1 m to 4 mm."""
    return torch.float32 if is_of_heads(name) else dtype


def freeze_parts(config: AtlasVLAConfig, model: AtlasVLA) -> None:
    """Freeze the parts that are not to learn, and cast them; buffers, such as rotary frequencies, stay float32."""
    for part, module in model.backbones().items():
        if config.is_frozen(part):
            freeze(module)
            dtype = part_dtype(config, part)
            for name, parameter in module.named_parameters():
                parameter.data = parameter.data.to(tensor_dtype(name, dtype))
    if model.aggregator is not None and config.vggt_blocks == "frozen":
        for block in model.aggregator.geometry_blocks():
            freeze(block)


def read(config: AtlasVLAConfig, name: str, module: nn.Module, resolved: ResolvedWeights) -> tuple[str, str]:
    """Fill a part that was built without memory from its resolved weights.

    Returns:
        The digest of the weights as they are stored, and the part's :func:`fingerprint`.

    Raises:
        WeightsError: For a tensor that is missing, has another shape, is of another kind (integers where floating-point
            numbers belong) or is not finite, by its name in the file; for VGGT's heads on a shortened aggregator.
    """
    part = PARTS[name]
    if part.check:
        part.check(resolved, part.flag)
    expected = _released_names(name, module)
    shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    try:
        tensors, report = read_tensors(
            resolved.weights, shapes, source=resolved.name, prefixes=part.prefixes, bare=part.bare
        )
        if kinds := other_kinds(tensors, expected):
            raise WeightsError(f"{resolved.name} does not fit the model: of another kind: {listing(kinds)}.")
    except WeightsError as error:
        heads = f"{part.flag}; its heads are read for --policy.query_conditioning={config.query_conditioning}"
        raise WeightsError(f"{error} ({heads if any(map(is_of_heads, expected)) else part.flag})") from error
    # Blocks of the file that nobody asked for.
    if any(name.startswith(OWN_HEADS) for name in expected) and AGGREGATOR_PREFIX.rstrip(".") in report.ignored:
        raise WeightsError(
            f"The heads of {resolved.name} were trained on its last blocks, and --policy.vggt_depth="
            f"{config.vggt_depth} leaves those out; leave out the flag, or --policy.query_conditioning="
            f"{config.query_conditioning}."
        )
    logger.info("%s", report)
    dtype = part_dtype(config, name)
    as_stored = all(tensor.dtype == tensor_dtype(key, dtype) for key, tensor in tensors.items())
    fill(module, part.from_file(tensors), dtype)
    # Weights that were not cast have been hashed while they were read.
    return report.digest, report.digest if as_stored else fingerprint(name, module)


def fingerprint(name: str, module: nn.Module) -> str:
    """Return the digest of a part's weights as they are now, in their present dtype, on any device the same."""
    return digest({key: tensor.detach().cpu() for key, tensor in _released_names(name, module).items()})


def _released_names(name: str, module: nn.Module) -> Mapping[str, Tensor]:
    return PARTS[name].to_file(module.state_dict())


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Put tensors in place of a module's parameters, cast to ``dtype``; no second copy where it is theirs already."""
    module.load_state_dict(
        {name: tensor.to(tensor_dtype(name, dtype)) for name, tensor in tensors.items()}, assign=True
    )
