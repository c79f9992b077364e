"""The README.md of a pushed checkpoint: what it is, which weights it contains or refers to, and under which licence.

LeRobot's own card knows no policy of a plugin, names no backbone and takes every checkpoint for Apache-2.0.
"""

import json
import logging
import re
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

from . import backbones

logger = logging.getLogger(__name__)

APACHE = "apache-2.0"
NON_COMMERCIAL = "cc-by-nc-4.0"
# Allows commercial use, and wants derivatives under the same licence.
VGGT_LICENCE = "vggt-license"
VGGT_1B = "facebook/VGGT-1B"
LICENCES = {
    VGGT_1B: NON_COMMERCIAL,
    "facebook/VGGT-1B-Commercial": VGGT_LICENCE,
    "Qwen/Qwen3-0.6B-Base": APACHE,
    "Qwen/Qwen2-0.5B": APACHE,
    "facebook/dinov2-base": APACHE,
}
_NAMES = {"vggt": "VGGT aggregator", "language": "language model", "vision_tower": "DINOv2 vision tower"}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LOCAL_CHECKPOINT = "a local checkpoint"
_LISTED_TASKS = 10
# LeRobot's LIBERO environment calls its cameras image and image2; the published datasets call the second one:
_WRIST = "wrist_image"


@dataclass(frozen=True)
class PartCard:
    """What the card says about one backbone.

    Attributes:
        part: ``vggt``, ``language`` or ``vision_tower``.
        source: Hub id, folder or file it was filled from; empty for random weights.
        revision: Commit of the source, if it has one.
        digest: Digest of the weights as they were read.
        licence: Licence of the source's weights; empty if it is not known.
        inside: Whether the pushed files contain this part's weights.
        frozen: Whether training left it alone.
        fallback: How the source differs from what was asked; usually empty.
    """

    part: str
    source: str
    revision: str
    digest: str
    licence: str
    inside: bool
    frozen: bool
    fallback: str

    @property
    def name(self) -> str:
        """For people."""
        return _NAMES[self.part]

    @property
    def on_hub(self) -> bool:
        """Whether the source is a Hub repository: those have a commit, folders have none."""
        return bool(self.revision)

    @property
    def licence_is_assumed(self) -> bool:
        """Whether the licence follows from the shape of the weights, for want of a name."""
        return bool(self.licence) and self.source not in LICENCES

    @property
    def label(self) -> str:
        """The source, without the folders of the machine it lay on."""
        return self.source if self.on_hub else Path(self.source).name

    @property
    def flag(self) -> str:
        """The flag that names other weights."""
        return backbones.PARTS[self.part].flag


def make(
    config: AtlasVLAConfig,
    *,
    referred: Collection[str],
    dataset: str,
    licence: str | None = None,
    tags: Collection[str] | None = None,
    training: Any = None,
    dataset_meta: Any = None,
    report: Path | None = None,
) -> ModelCard:
    """Write the card. Nothing here needs the Hub, which checks the card itself when it is committed.

    Args:
        config: The policy's configuration, with the record of what the backbones were filled from.
        referred: The backbones that the checkpoint refers to instead of containing them.
        dataset: Hub id of the training data.
        licence: As asked with ``--policy.license``; a stricter one of weights inside the checkpoint wins.
        tags: Further tags.
        training: LeRobot's ``TrainPipelineConfig``.
        dataset_meta: LeRobot's ``LeRobotDatasetMetadata``.
        report: ``eval_info.json`` of ``lerobot-eval``; without one, the card says that no rollouts are reported.

    Raises:
        ValueError: If the report can't be read or lists no rollouts.
    """
    parts = [_part(config, part, referred) for part in backbones.used_parts(config)]
    licence, licence_name = _licence(config, parts, licence)
    local = [part for part in parts if part.source and not part.inside and not part.on_hub]
    if local:
        logger.warning(
            "The pushed checkpoint refers to weights in local folders (%s), which others don't have: they need "
            "the same weights, and %s to name them. --policy.save_full_weights=true writes them into the checkpoint.",
            ", ".join(part.label for part in local),
            ", ".join(part.flag for part in local),
        )
    started_from = _started_from(config, training)
    if config.use_peft and started_from == _LOCAL_CHECKPOINT:
        logger.warning(
            "The pushed adapter names the local checkpoint %s as its base, which others don't have. Push that "
            "checkpoint too and train the adapter with --policy.path=<its Hub id>.",
            config.pretrained_path,
        )
    bases = [part.source for part in parts if part.on_hub]
    if _HUB_ID.fullmatch(started_from):
        bases.insert(0, started_from)
    data = ModelCardData(
        license=licence,
        license_name=licence_name,
        library_name="lerobot",
        pipeline_tag="robotics",
        tags=sorted({*(tags or ()), "robotics", "lerobot", config.type}),
        model_name=config.type,
        datasets=dataset,
        base_model=bases or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("model_card.md").read_text(encoding="utf-8"),
        config=config,
        parts=parts,
        random=[part.name for part in parts if not part.source],
        local=local,
        licence=licence,
        licence_name=licence_name,
        needs_non_commercial=any(part.licence == NON_COMMERCIAL and not part.licence_is_assumed for part in parts),
        contains_non_commercial=licence == NON_COMMERCIAL and licence_name is not None,
        started_from=started_from,
        adapts_local=config.use_peft and started_from == _LOCAL_CHECKPOINT,
        dataset=dataset,
        repo=config.repo_id or "user/repo",
        views=[key.removeprefix(f"{OBS_IMAGES}.") for key in config.view_keys],
        data=_data(training, dataset_meta),
        run=_run(config, training),
        command=_eval_command(config, dataset),
        results=_results(report) if report else [],
        versions={"atlasvla": _own_version(), "lerobot": lerobot.__version__, "torch": torch.__version__},
    )
    # Assigning parses the front matter again: what is no YAML is found out before weights travel.
    card.content = re.sub(r"\n{3,}", "\n\n", card.content)
    return card


def _own_version() -> str:
    try:
        return version("lerobot_policy_atlasvla")
    except PackageNotFoundError:
        # Run from a source folder that is not installed.
        return "unreleased"


def _part(config: AtlasVLAConfig, part: str, referred: Collection[str]) -> PartCard:
    known: Mapping[str, str] = config.backbone_sources.get(part, {})
    pretrained = part in backbones.pretrained_parts(config)
    source = known.get("source", getattr(config, backbones.PARTS[part].model_field)) if pretrained else ""
    licence = LICENCES.get(source, "")
    if part == "vggt" and source and not licence and not known.get("revision") and _has_width_of_vggt_1b(config):
        # A local copy has no name to know it by. Taking it for the one that may be used commercially would be worse.
        licence = NON_COMMERCIAL
    return PartCard(
        part=part,
        source=source,
        revision=known.get("revision", "") if pretrained else "",
        digest=known.get("digest", "") if pretrained else "",
        licence=licence,
        # With PEFT, LeRobot pushes the adapter and what was trained with it.
        inside=not config.use_peft and part not in referred,
        frozen=config.is_frozen(part),
        fallback=known.get("fallback", "") if pretrained else "",
    )


def _has_width_of_vggt_1b(config: AtlasVLAConfig) -> bool:
    return config.vggt_embed_dim == 1024 and config.vggt_patch_embed == "dinov2_vitl14_reg"


def _licence(config: AtlasVLAConfig, parts: list[PartCard], asked: str | None) -> tuple[str, str | None]:
    """Licence and, where the first alone would not say it, its name: what weights inside demand, else as asked."""
    inside = {part.source: part for part in parts if part.source and part.inside}
    certain = {part.licence for part in inside.values() if not part.licence_is_assumed}
    if NON_COMMERCIAL in certain or (asked is None and any(p.licence == NON_COMMERCIAL for p in inside.values())):
        demanded, name = NON_COMMERCIAL, "vggt-1b-non-commercial"
    elif VGGT_LICENCE in certain:
        demanded, name = "other", VGGT_LICENCE
    elif asked is None and any(not part.licence for part in inside.values()):
        demanded, name = "other", "as-the-included-weights"
    else:
        return asked or APACHE, None
    if asked not in (None, demanded):
        logger.warning(
            "The checkpoint contains weights of %s, so its model card says license %s (%s), not %s (--policy.license).",
            " and ".join(sorted(inside)),
            demanded,
            name,
            asked,
        )
    return demanded, name


def _started_from(config: AtlasVLAConfig, training: Any) -> str:
    """The checkpoint that training started from, if it was another one; a resumed run starts from itself."""
    path = str(config.pretrained_path or "")
    if not path or getattr(training, "resume", False):
        return ""
    return path if _HUB_ID.fullmatch(path) and not Path(path).exists() else _LOCAL_CHECKPOINT


def _data(training: Any, meta: Any) -> dict[str, Any]:
    settings = getattr(training, "dataset", None)
    chosen = getattr(settings, "episodes", None)
    facts: dict[str, Any] = {
        "local": bool(getattr(settings, "root", None)),
        "chosen": len(chosen) if chosen is not None else None,
        "held_out": getattr(settings, "eval_split", 0.0),
    }
    if meta is None:
        return facts
    tasks = [str(task) for task in meta.tasks.index]
    return facts | {
        "episodes": meta.total_episodes,
        "frames": meta.total_frames,
        "fps": meta.fps,
        "robot": meta.robot_type,
        "tasks": tasks[:_LISTED_TASKS],
        "more_tasks": max(0, len(tasks) - _LISTED_TASKS),
    }


def _run(config: AtlasVLAConfig, training: Any) -> dict[str, Any]:
    """What is known of the training, in the order of the table."""
    if training is None:
        return {}
    optimizer = training.optimizer
    learns = [part for part in backbones.pretrained_parts(config) if not config.is_frozen(part)]
    facts = {
        "steps": training.steps,
        "batch size (per process)": training.batch_size,
        "optimizer": getattr(optimizer, "type", None),
        "peak learning rate": getattr(optimizer, "lr", None),
        "peak learning rate of unfrozen backbones": config.optimizer_backbone_lr if learns else None,
        "seed": training.seed,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _eval_command(config: AtlasVLAConfig, dataset: str) -> dict[str, str]:
    """Values for ``lerobot-eval`` in LIBERO."""
    views = [key.removeprefix(f"{OBS_IMAGES}.") for key in config.view_keys]
    suite = re.search(r"libero_(?:spatial|object|goal|10|90)(?!\d)", str(dataset))
    # A blind policy takes any.
    height, width = config.image_features[config.view_keys[0]].shape[1:] if views else config.image_size
    mapping = {"agentview_image": "image", "robot0_eye_in_hand_image": _WRIST}
    return {
        "suite": suite[0] if suite else "libero_spatial",
        "height": str(height),
        "width": str(width),
        "mapping": json.dumps(mapping, separators=(",", ":")) if _WRIST in views else "",
        "is_libero": str(set(views) <= {"image", "image2", _WRIST}),
    }


def _results(report: Path) -> list[dict[str, str]]:
    try:
        entries = json.loads(report.read_text())["per_task"]
        rows = [(f"{e['task_group']} {e['task_id']}", [bool(s) for s in e["metrics"]["successes"]]) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{report} is no readable eval_info.json of lerobot-eval: {error!r} (report).") from error
    everything = [success for _, successes in rows for success in successes]
    if not everything:
        raise ValueError(f"{report} lists no rollouts (report).")
    if len(rows) > 1:
        rows.append(("all", everything))
    return [{"task": task, "rate": _rate(successes)} for task, successes in rows if successes]


def _rate(successes: list[bool]) -> str:
    # Not at import: the policy's module imports this one, and only cards with results need SciPy.
    from scipy.stats import binomtest

    good, rollouts = sum(successes), len(successes)
    low, high = binomtest(good, rollouts).proportion_ci(confidence_level=0.95, method="wilson")
    return f"{good}/{rollouts} = {100 * good / rollouts:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
