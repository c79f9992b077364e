"""The README.md of a pushed checkpoint: what it is, which weights it contains or refers to, and under which license.

LeRobot's own card knows no policy of a plugin, names no backbone and takes every checkpoint for Apache-2.0.
"""

import json
import logging
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import lerobot
import torch
from huggingface_hub import ModelCard, ModelCardData
from lerobot.utils.constants import OBS_IMAGES

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.utils.extras import require

from . import backbones
from .download import is_hub_id

logger = logging.getLogger(__name__)

APACHE = "apache-2.0"
NON_COMMERCIAL = "cc-by-nc-4.0"
# Allows commercial use, and wants derivatives under the same license.
VGGT_LICENSE = "vggt-license"
LICENSES = {
    "facebook/VGGT-1B": NON_COMMERCIAL,
    "facebook/VGGT-1B-Commercial": VGGT_LICENSE,
    "depth-anything/DA3-SMALL": APACHE,
    "depth-anything/DA3-BASE": APACHE,
    "Qwen/Qwen3-0.6B-Base": APACHE,
    "Qwen/Qwen2-0.5B": APACHE,
    "facebook/dinov2-base": APACHE,
}
_NAMES = {
    "vggt": "VGGT aggregator",
    "da3": "DA3 encoder",
    "language": "language model",
    "vision_tower": "DINOv2 vision tower",
}
_PATCH_TOKENS = {
    "vggt": "VGGT's own patch embedder (`{config.vggt_patch_embed}`)",
    "da3": "DA3's own convolution",
    "patch": "a convolution trained from scratch",
    "dinov2": "the DINOv2 vision tower",
}
_GEOMETRY = {
    "vggt": (
        "VGGT aggregator, depth {config.vggt_depth} (pairs of frame and global blocks), width {config.vggt_embed_dim}"
    ),
    "da3": "DA3 encoder, {da3[depth]} blocks, width {da3[embed_dim]}",
}
_LOCAL_CHECKPOINT = "a local checkpoint"


@dataclass(frozen=True)
class PartRow:
    """Hold what the card says about one backbone.

    Attributes:
        part: ``vggt``, ``da3``, ``language`` or ``vision_tower``.
        source: Hub id, folder or file it was filled from; empty for random weights.
        revision: Commit of the source on the Hub; empty for a folder or file.
        digest: Digest of the weights as they were read.
        fallback: How the source differs from what was asked; usually empty.
        license: License of the source's weights; empty if it is not known.
        license_is_assumed: Whether the license follows from the shape of the weights, for want of a name.
        inside: Whether the pushed files contain this part's weights.
        frozen: Whether training left it alone.
    """

    part: str
    source: str
    revision: str
    digest: str
    fallback: str
    license: str
    license_is_assumed: bool
    inside: bool
    frozen: bool

    @property
    def name(self) -> str:
        """Return the part's name in prose."""
        return _NAMES[self.part]

    @property
    def label(self) -> str:
        """Return the source, without the folders of the machine it lay on."""
        return self.source if self.revision else Path(self.source).name

    @property
    def flag(self) -> str:
        """Return the flag that names other weights."""
        return backbones.PARTS[self.part].flag


def make(
    config: AtlasVLAConfig,
    *,
    sources: Mapping[str, Mapping[str, str]],
    referred: Collection[str],
    dataset: str,
    license: str | None = None,
    tags: Collection[str] | None = None,
    training: Any = None,
    dataset_meta: Any = None,
    report: Path | None = None,
) -> ModelCard:
    """Write the card. Nothing here needs the Hub, which checks the card itself when it is committed.

    Args:
        config: The policy's configuration.
        sources: What the backbones were filled from (:class:`.BackboneRecord`).
        referred: The backbones that the checkpoint refers to instead of containing them.
        dataset: Hub id of the training data.
        license: As asked with ``--policy.license``; a stricter one of weights inside the checkpoint wins.
        tags: Further tags.
        training: LeRobot's ``TrainPipelineConfig``.
        dataset_meta: LeRobot's ``LeRobotDatasetMetadata``.
        report: ``eval_info.json`` of ``lerobot-eval``; without one, the card says that no rollouts are reported.

    Raises:
        ValueError: If the report can't be read or lists no rollouts.
    """
    parts = [part_row(config, part, sources.get(part, {}), referred) for part in backbones.used_parts(config)]
    license, license_name = license_of(parts, license)
    local = [part for part in parts if part.source and not part.inside and not part.revision]
    repo = config.repo_id or "user/repo"
    if local:
        logger.warning(
            "The pushed checkpoint refers to weights in local folders (%s), which others don't have: they need "
            "the same weights, and %s to name them. --policy.save_full_weights=true writes them into the checkpoint.",
            ", ".join(part.label for part in local),
            ", ".join(part.flag for part in local),
        )
    started_from = _started_from(config, training)
    adapts_local = config.use_peft and started_from == _LOCAL_CHECKPOINT
    if adapts_local:
        logger.warning(
            "The pushed adapter names the local checkpoint %s as its base, which others don't have. Push that "
            "checkpoint too and train the adapter with --policy.path=<its Hub id>.",
            config.pretrained_path,
        )
    data = ModelCardData(
        license=license,
        license_name=license_name,
        library_name="lerobot",
        pipeline_tag="robotics",
        tags=sorted({*(tags or ()), "robotics", "lerobot", config.type}),
        model_name=config.type,
        datasets=dataset,
        base_model=[*filter(is_hub_id, [started_from]), *(p.source for p in parts if p.revision)] or None,
    )
    suite = re.search(r"libero_(?:spatial|object|goal|10|90)(?!\d)", str(dataset))
    card = ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("model_card.md").read_text(encoding="utf-8"),
        config=config,
        patch_tokens=_PATCH_TOKENS[config.vision].format(config=config),
        geometry=_GEOMETRY[config.geometry_backbone].format(
            config=config, da3=config.backbone_architectures.get("da3", {})
        ),
        parts=parts,
        local=local,
        license=license,
        license_name=license_name,
        started_from=started_from,
        adapts_local=adapts_local,
        dataset=dataset,
        suite=suite[0] if suite else "libero_spatial",
        repo=repo,
        # As they can be pasted into a shell, whatever characters are in them.
        policy_flag=shlex.quote(f"--policy.path={repo}"),
        rename_flag=_rename_flag(config),
        views=[key.removeprefix(f"{OBS_IMAGES}.") for key in config.view_keys],
        # A blind policy takes images of any size.
        pixels=config.image_features[config.view_keys[0]].shape[1:] if config.view_keys else config.image_size,
        learns=any(not config.is_frozen(part) for part in backbones.pretrained_parts(config)),
        training=training,
        meta=dataset_meta,
        tasks=[] if dataset_meta is None else [str(task) for task in dataset_meta.tasks.index],
        results=_results(report) if report else [],
        versions={"atlasvla": _own_version(), "lerobot": lerobot.__version__, "torch": torch.__version__},
    )
    # Assigning parses the front matter again: what is no YAML is found out before weights travel.
    card.content = re.sub(r"\n{3,}", "\n\n", card.content)
    return card


def _rename_flag(config: AtlasVLAConfig) -> str:
    names = {f"{OBS_IMAGES}.<its name>": key for key in config.view_keys[:1]}
    return f"--rename_map={shlex.quote(json.dumps(names, ensure_ascii=False))}"


def _own_version() -> str:
    try:
        return version("lerobot_policy_atlasvla")
    except PackageNotFoundError:
        # Run from a source folder that is not installed.
        return "unreleased"


def part_row(config: AtlasVLAConfig, part: str, known: Mapping[str, str], referred: Collection[str]) -> PartRow:
    """Return what the card says about one backbone; arguments as of :func:`make`, ``known`` is its source."""
    pretrained = part in backbones.pretrained_parts(config)
    known = known if pretrained else {}
    source = known.get("source", getattr(config, backbones.PARTS[part].model_field)) if pretrained else ""
    revision = known.get("revision", "")
    # A local copy has no name to know it by. Taking it for the one that may be used commercially would be worse.
    has_width_of_vggt_1b = config.vggt_embed_dim == 1024 and config.vggt_patch_embed == "dinov2_vitl14_reg"
    assumed = part == "vggt" and bool(source) and source not in LICENSES and not revision and has_width_of_vggt_1b
    return PartRow(
        part=part,
        source=source,
        revision=revision,
        digest=known.get("digest", ""),
        fallback=known.get("fallback", ""),
        license=NON_COMMERCIAL if assumed else LICENSES.get(source, ""),
        license_is_assumed=assumed,
        # With PEFT, LeRobot pushes the adapter and what was trained with it.
        inside=not config.use_peft and part not in referred,
        frozen=config.is_frozen(part),
    )


def license_of(parts: list[PartRow], asked: str | None) -> tuple[str, str | None]:
    """Return the license that weights inside demand, else the one asked for; and its name where it needs one."""
    inside = [part for part in parts if part.source and part.inside]
    certain = {part.license for part in inside if not part.license_is_assumed}
    if NON_COMMERCIAL in certain or (asked is None and any(part.license == NON_COMMERCIAL for part in inside)):
        demanded, name = NON_COMMERCIAL, "vggt-1b-non-commercial"
    elif VGGT_LICENSE in certain:
        demanded, name = "other", VGGT_LICENSE
    elif asked is None and any(not part.license for part in inside):
        demanded, name = "other", "as-the-included-weights"
    else:
        return asked or APACHE, None
    if asked not in (None, demanded):
        logger.warning(
            "The checkpoint contains weights of %s, so its model card says license %s (%s), not %s (--policy.license).",
            " and ".join(sorted({part.source for part in inside})),
            demanded,
            name,
            asked,
        )
    return demanded, name


def _started_from(config: AtlasVLAConfig, training: Any) -> str:
    """Return the checkpoint that training started from, if it was another one; a resumed run starts from itself."""
    path = str(config.pretrained_path or "")
    if not path or getattr(training, "resume", False):
        return ""
    return path if is_hub_id(path) else _LOCAL_CHECKPOINT


def _results(report: Path) -> list[dict[str, str]]:
    """Return a row per task, and one for all, of a report of ``lerobot-eval``."""
    try:
        entries = json.loads(report.read_text())["per_task"]
        rows = [(f"{e['task_group']} {e['task_id']}", [bool(s) for s in e["metrics"]["successes"]]) for e in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{report} is no readable eval_info.json of lerobot-eval: {error!r} (report).") from error
    everything = [success for _, successes in rows for success in successes]
    if not everything:
        raise ValueError(f"{report} lists no rollouts (report).")
    if len(rows) > 1:
        rows.append(("all", everything))
    return [{"task": task, "rate": _rate(successes)} for task, successes in rows if successes]


def _rate(successes: list[bool]) -> str:
    # Not at import: the policy's module imports this one, and only cards with results need SciPy.
    require("scipy", "eval", "A model card with success rates")
    from scipy.stats import binomtest

    good, rollouts = sum(successes), len(successes)
    low, high = binomtest(good, rollouts).proportion_ci(confidence_level=0.95, method="wilson")
    return f"{good}/{rollouts} = {100 * good / rollouts:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
