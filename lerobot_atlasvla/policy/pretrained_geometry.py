"""A policy on a geometry backbone that says itself what it is: sizes from its record, cameras in its order.

The record is that of ``atlasvla-pretrain`` (:mod:`~lerobot_atlasvla.model.geometry.record`). VGGT-1B has none: its
sizes are the settings' defaults, and its views have no roles. Light, as the configuration that imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from lerobot.utils.constants import OBS_IMAGES

from lerobot_atlasvla.model.geometry.record import GeometryRecord, HeadSizes, RecordError, check_views, read_record
from lerobot_atlasvla.weights.download import is_hub_id

from .checks.types import ConfigError
from .columns import select_columns

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

_WITHOUT_RECORD = {"facebook/VGGT-1B", "facebook/VGGT-1B-Commercial"}

# Entries of the record and the settings they take the place of; those of images only where VGGT sees them itself.
_SIZES = {
    "embed_dim": "vggt_embed_dim",
    "depth": "vggt_depth",
    "num_heads": "vggt_num_heads",
    "num_register_tokens": "vggt_num_register_tokens",
}
_IMAGE_SIZES = {"patch_embed": "vggt_patch_embed", "patch_size": "vggt_patch_size", "image_size": "image_size"}
_LAYERS = "vggt_output_layers"
WRIST_WORDS = ("wrist", "hand", "gripper")
"""Words in the name of a camera that moves with the hand."""
# The wrist camera as LeRobot's LIBERO environment calls it.
_NAMELESS = {"image2"}


class _Unset:
    """Marks a default, which equals the same value given by a user but is another object."""


class _UnsetInt(int, _Unset):
    pass


class _UnsetStr(str, _Unset):
    pass


class _UnsetTuple(tuple, _Unset):
    pass


def unset(value: Any) -> Any:
    """Return the default of a setting, so that it can be told from the same value given by a user."""
    kinds: dict[type, Any] = {int: _UnsetInt, str: _UnsetStr, tuple: _UnsetTuple}
    return kinds[type(value)](value)


def take_defaults(config: AtlasVLAConfig) -> frozenset[str]:
    """Put plain values where defaults are marked, and return the names of those settings."""
    marked = [field.name for field in fields(config) if isinstance(getattr(config, field.name), _Unset)]
    for name in marked:
        value: Any = getattr(config, name)
        kind: Any = next(kind for kind in (int, str, tuple) if isinstance(value, kind))
        setattr(config, name, kind(value))
    return frozenset(marked)


def uses_record(config: AtlasVLAConfig) -> bool:
    """Return whether a record beside VGGT's weights counts: they are used, and pretrained."""
    return not config.is_blind and config.vision != "da3" and config.vggt_init == "pretrained"


def local_record(config: AtlasVLAConfig) -> GeometryRecord | None:
    """Return the record that lies beside local weights, for a configuration that is not a saved one.

    A saved one gives all sizes, and its policy may be built where the folder is not, or has become another one.

    Raises:
        ConfigError: If it is damaged.
    """
    if not uses_record(config) or not config.unset_fields:
        return None
    try:
        return read_record(config.vggt_model)
    except RecordError as error:
        raise ConfigError(f"{error} (--policy.vggt_model).") from error


def known_heads(config: AtlasVLAConfig) -> HeadSizes | None:
    """Return the heads of a pretrained backbone with a record, if it is saved in the policy or lies on this machine.

    Raises:
        ConfigError: If the record is damaged.
    """
    if record := local_record(config):
        return record.heads
    entry = config.backbone_architectures.get("vggt") or {}
    return HeadSizes.of(entry["heads"], len(entry["views"])) if entry.get("heads") else None


def awaits_record(config: AtlasVLAConfig) -> bool:
    """Return whether the record may become known only when the policy is built.

    That is so of a backbone from the Hub, and of a saved configuration, which is read before what it says of backbones.
    """
    if not uses_record(config) or config.vggt_model in _WITHOUT_RECORD or known_heads(config):
        return False
    return not config.unset_fields or is_hub_id(config.vggt_model)


def take_sizes(config: AtlasVLAConfig, record: GeometryRecord) -> str:
    """Put a record's sizes where the settings were left at their defaults.

    Returns:
        One sentence about the first setting that says something else; empty if none does.
    """
    found = asdict(record)
    names = _SIZES | (_IMAGE_SIZES if config.vision == "vggt" else {})
    for entry, name in names.items():
        if name in config.unset_fields:
            setattr(config, name, found[entry])
        elif getattr(config, name) != found[entry]:
            return (
                f"{name} is {getattr(config, name)}, but the geometry backbone {config.vggt_model} has {found[entry]}: "
                f"leave out --policy.{name}, or name another backbone (--policy.vggt_model)."
            )
    if _LAYERS in config.unset_fields:
        config.vggt_output_layers = (record.depth - 1,)
    return ""


def saved_entries(config: AtlasVLAConfig, record: GeometryRecord) -> dict[str, Any]:
    """Return what a checkpoint keeps of a record beside the sizes: the views' roles, and the heads where they fit."""
    heads = record.heads if config.vision == "vggt" and config.fusion == "late" else None
    return {"views": list(record.views), "heads": None if heads is None else asdict(heads)}


def check_entries(entries: Any) -> dict[str, Any]:
    """Return what :func:`saved_entries` made, read back from a file.

    Raises:
        ValueError: If something is missing, of another kind or out of range.
    """
    views, heads = check_views(entries["views"]), entries["heads"]
    return {"views": list(views), "heads": None if heads is None else asdict(HeadSizes.of(heads, len(views)))}


def order_views(config: AtlasVLAConfig) -> None:
    """Bring the policy's cameras into the order of the backbone's views, and leave others out.

    Which camera has which role is said by ``vggt_views``, else by the names.

    Args:
        config: The configuration, features and architectures filled in; ``views`` is set.

    Raises:
        ValueError: If a role has no camera or several, or ``vggt_views`` names others than the policy has.
    """
    entry = config.backbone_architectures.get("vggt")
    if entry is None or not uses_record(config):
        if config.vggt_views and not config.is_blind:
            raise ValueError(
                "vggt_views says which cameras have the roles of a backbone made by atlasvla-pretrain, and this policy "
                "has none: leave out --policy.vggt_views; --policy.views sets the order of cameras."
            )
        return
    roles, cameras = entry["views"], config.view_keys
    config.views = _told(config, roles, cameras) if config.vggt_views else _recognized(config, roles, cameras)
    select_columns(config)


def _told(config: AtlasVLAConfig, roles: Sequence[str], cameras: Sequence[str]) -> tuple[str, ...]:
    named = config.vggt_views
    if len(named) != len(roles) or set(named) - set(cameras) or (config.views and set(named) != set(cameras)):
        raise ValueError(
            f"vggt_views must name the cameras in the roles {list(roles)} of {config.vggt_model}, one each, among "
            f"{list(cameras)}; got {list(named)} (--policy.vggt_views, --policy.views)."
        )
    return named


def _recognized(config: AtlasVLAConfig, roles: Sequence[str], cameras: Sequence[str]) -> tuple[str, ...]:
    found = {role: [key for key in cameras if role_of(key, roles) == role] for role in roles}
    for role, keys in found.items():
        if len(keys) != 1:
            what = f"several cameras: {keys}" if keys else "no camera"
            raise ValueError(
                f"The geometry backbone {config.vggt_model} looks through {list(roles)}, and by the names of the "
                f"policy's cameras, {list(cameras)}, the role {role!r} has {what}. Say which cameras have these roles, "
                "in this order, with --policy.vggt_views."
            )
    return tuple(keys[0] for keys in found.values())


def role_of(key: str, roles: Sequence[str]) -> str:
    """Return the role that a camera's name speaks for: that very name, else ``wrist`` or ``scene``."""
    name = key.removeprefix(f"{OBS_IMAGES}.").lower()
    if name in roles:
        return name
    return "wrist" if name in _NAMELESS or any(word in name for word in WRIST_WORDS) else "scene"
