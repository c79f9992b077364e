"""Checks of the settings that say what the action queries know of the views: keypoints, 3-D landmarks or nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lerobot_atlasvla.policy.pretrained_geometry import awaits_record, known_heads, role_of

from .types import ConfigError, shown

if TYPE_CHECKING:
    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

CONDITIONINGS = ("keypoints", "landmarks", "only_landmarks", "none")
LANDMARK_FRAMES = ("first_view", "base")
# Numbers of the state before anything else: position and rotation vector of the end effector.
POSE_NUMBERS = 6
_HAND_EYE_NUMBERS, _BOX_NUMBERS = 7, 6
# Farther away, no camera is at a hand, and no table at a robot.
_FARTHEST_M = 1000.0
# VGGT's depth head has an eighth of the width in channels, whose positions come in fours.
_WIDTH_UNIT = 32


def take_former_conditioning(config: AtlasVLAConfig) -> None:
    """Read the former setting ``condition_queries`` into ``query_conditioning``, and forget it.

    Raises:
        ConfigError: If the two contradict each other.
    """
    asked, former = config.query_conditioning, config.condition_queries
    if former is None:
        return
    if (asked == "none") if former else (asked not in ("keypoints", "none")):
        raise ConfigError(
            f"query_conditioning is {shown(asked)}, but condition_queries, its former name, is {former}: leave out "
            "--policy.condition_queries and name one of "
            f"{', '.join(CONDITIONINGS)} (--policy.query_conditioning)."
        )
    config.query_conditioning = asked if former else "none"
    config.condition_queries = None


def check_conditioning(config: AtlasVLAConfig) -> None:
    """Check the settings of landmarks, and that the policy has a backbone that gives points.

    Raises:
        ConfigError: For the first one that can't work.
    """
    _check_hand_eye(config)
    _check_box(config)
    if not config.reads_landmarks:
        if config.landmark_frame == "base" or config.hand_eye:
            what = "landmark_frame='base'" if config.landmark_frame == "base" else f"hand_eye {list(config.hand_eye)}"
            raise ConfigError(
                f"{what} is of landmarks, but query_conditioning is {config.query_conditioning!r} "
                "(--policy.query_conditioning=landmarks or only_landmarks, or leave out --policy.landmark_frame and "
                "--policy.hand_eye)."
            )
        return
    asked = f"query_conditioning={config.query_conditioning!r}"
    flag = "(--policy.query_conditioning=keypoints"
    if config.is_blind:
        raise ConfigError(
            f"{asked} reads the views, but a blind policy has none, got views {list(config.views)} {flag} or none, or "
            "other --policy.views)."
        )
    if config.vision != "vggt":
        why = {"da3": "DA3's depth head is not built here"}.get(config.vision, "its own patch tokens are not VGGT's")
        raise ConfigError(
            f"{asked} needs a geometry backbone that gives points, vision='vggt', got vision={config.vision!r}: {why} "
            f"{flag}, or --policy.vision=vggt)."
        )
    if config.fusion != "late":
        raise ConfigError(
            f"{asked} needs a backbone that sees images only, fusion='late', got {config.fusion!r} {flag}, or "
            "--policy.fusion=late)."
        )
    if config.vggt_blocks == "removed":
        raise ConfigError(
            f"{asked} reads depth and cameras off the frame and global blocks, got vggt_blocks='removed' {flag}, or "
            "--policy.vggt_blocks=normal)."
        )
    if config.empty_cameras:
        raise ConfigError(
            f"{asked} looks for the same landmarks in every sample, in views that are always there; got empty_cameras "
            f"{config.empty_cameras} (--policy.empty_cameras=0, or --policy.query_conditioning=keypoints)."
        )
    if not awaits_record(config):
        check_landmarks_of(config)
    if config.hand_eye and not config.use_state:
        raise ConfigError(
            f"hand_eye {list(config.hand_eye)} says where the camera is at the end effector, whose pose the state has; "
            "got use_state false (--policy.use_state=true, or leave out --policy.hand_eye)."
        )


def check_landmarks_of(config: AtlasVLAConfig) -> None:
    """Check that the backbone can give points, in a frame from which that of the landmarks can be reached.

    Args:
        config: The configuration; what there is to know of its backbone is known.

    Raises:
        ConfigError: If it can't.
    """
    if not config.reads_landmarks:
        return
    heads = known_heads(config)
    if heads is None and config.vggt_embed_dim % _WIDTH_UNIT:
        raise ConfigError(
            f"query_conditioning={config.query_conditioning!r} needs VGGT's depth head, for which vggt_embed_dim must "
            f"be a multiple of {_WIDTH_UNIT}, got {config.vggt_embed_dim} (--policy.vggt_embed_dim)."
        )
    sees_base = heads is not None and heads.frame == "base"
    if sees_base and config.hand_eye:
        raise ConfigError(
            "hand_eye gives the first camera's place in the frame of the state, which need not be the robot base's (in "
            "LIBERO it is the world's), and this backbone sees its cameras in the base's itself: leave out "
            "--policy.hand_eye."
        )
    if config.landmark_frame == "base" and not config.hand_eye and not sees_base:
        raise ConfigError(
            "landmark_frame='base' needs the pose of the first camera in the end effector's frame, and hand_eye is "
            "empty; give its seven numbers (--policy.hand_eye), use --policy.landmark_frame=first_view, or a backbone "
            "that sees the base itself (`atlasvla-pretrain --frame=base`)."
        )


def check_landmark_features(config: AtlasVLAConfig) -> None:
    """Check that the data have what ``hand_eye`` is about: an end effector's pose, and a camera at the hand first.

    Args:
        config: The configuration, features filled in.

    Raises:
        ValueError: If the state is too short, or another camera than the first is at the wrist by its name.
    """
    if not config.hand_eye:
        return
    if config.state_dim < POSE_NUMBERS:
        raise ValueError(
            f"hand_eye needs a state that begins with the end effector's position and rotation vector, "
            f"{POSE_NUMBERS} numbers; {', '.join(config.state_keys)} has {config.state_dim} (leave out "
            "--policy.hand_eye, with --policy.landmark_frame=first_view)."
        )
    first, *others = config.view_keys
    wrist = [key for key in others if looks_like_wrist(key)]
    if wrist and not looks_like_wrist(first):
        order = ", ".join([wrist[0], *(key for key in config.view_keys if key != wrist[0])])
        raise ValueError(
            f"hand_eye is the place of the first camera at the hand, but the first is {first}, and {wrist[0]} is one "
            f"at the wrist by its name; put it first: --policy.views='[{order}]'."
        )


def check_others_stand_still(config: AtlasVLAConfig) -> None:
    """Check that no camera but the first is at the hand, where poses are averaged over an episode.

    Args:
        config: The configuration; what there is to know of its backbone is known, and the views are in their order.

    Raises:
        ValueError: If another one is at the wrist by its name.
    """
    heads = known_heads(config)
    places = config.hand_eye or (heads is not None and heads.frame == "base")
    moving = [key for key in config.view_keys[1:] if looks_like_wrist(key)]
    if config.reads_landmarks and places and moving:
        raise ValueError(
            f"3-D landmarks take every camera but the first for one that stands still, and {', '.join(moving)} is at "
            "the wrist by its name: leave it out (--policy.views), use a backbone that sees it first, or rename it if "
            "it stands still (--rename_map)."
        )


def looks_like_wrist(key: str) -> bool:
    """Return whether a camera moves with the hand, by its name."""
    return role_of(key, ()) == "wrist"


def _check_hand_eye(config: AtlasVLAConfig) -> None:
    numbers = config.hand_eye
    if not numbers:
        return
    good = len(numbers) == _HAND_EYE_NUMBERS and all(abs(number) <= _FARTHEST_M for number in numbers)
    if not good or not 0.99 < math.hypot(*numbers[3:]) < 1.01:
        raise ConfigError(
            "hand_eye must be x, y, z in meters and a quaternion x, y, z, w of length 1, seven numbers, got "
            f"{shown(list(numbers))} (--policy.hand_eye)."
        )


def _check_box(config: AtlasVLAConfig) -> None:
    box = config.landmark_box
    if not box:
        return
    good = len(box) == _BOX_NUMBERS and all(abs(number) <= _FARTHEST_M for number in box)
    if not good or any(low >= high for low, high in zip(box[:3], box[3:], strict=True)):
        raise ConfigError(
            "landmark_box must be the lowest x, y, z, then the highest x, y, z in meters, six numbers, got "
            f"{shown(list(box))} (--policy.landmark_box)."
        )
