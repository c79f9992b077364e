"""Draw what a checkpoint makes of frames of a dataset: the views, where its queries and landmarks look, VGGT's depth.

One image per frame. Row 1: the views. Then, each for policies that have it: with the attention over their patches; with
the landmarks and how visible they are; depth, of a pretrained VGGT whose source has the weights of the depth head. Of a
pretrained DA3, whose depth head is not built, the poses of the cameras are printed instead.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eval.common.cli import run_command
from eval.common.errors import EvalError
from eval.offline.policy_data import read_dataset, read_metadata
from eval.rollout.policy.checkpoint import CONFIG_FILE, find_checkpoint, read_json
from lerobot_atlasvla.files.replacing import replacing

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from lerobot_atlasvla import AtlasVLAPolicy
    from lerobot_atlasvla.inspection.attention import ChunkAttention
    from lerobot_atlasvla.inspection.landmark_views import LandmarkViews

POLICY_TYPE = "atlasvla"
# Landmarks from this visibility on are counted, and numbered in the figure.
SEEN = 0.5


@dataclass
class GeometryViewConfig:
    """Show frames as the policy sees them."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside.
    checkpoint: Path
    # Folder of a LeRobot dataset with the cameras that the policy was trained on.
    dataset_root: Path
    # Images are written here as frame_000123.png; one of the same frame is replaced.
    output_dir: Path
    # Frames to show, counted from 0 through all episodes of the dataset.
    frames: list[int] = field(default_factory=lambda: [0])


def load_policy(checkpoint: Path) -> tuple["AtlasVLAPolicy", Any]:
    """Load the policy and its preprocessor.

    Raises:
        EvalError: If the folder holds no AtlasVLA policy, or one that can't be loaded.
    """
    checkpoint = find_checkpoint(checkpoint)
    kind = read_json(checkpoint / CONFIG_FILE).get("type")
    if kind != POLICY_TYPE:
        raise EvalError(
            f"--checkpoint={checkpoint} is a policy of type {kind}; only {POLICY_TYPE} has action queries whose "
            "attention can be shown."
        )
    from lerobot.policies.factory import make_pre_post_processors

    from lerobot_atlasvla import AtlasVLAPolicy

    try:
        policy = AtlasVLAPolicy.from_pretrained(checkpoint)
        here = {"device_processor": {"device": policy.config.device}}
        preprocess, _ = make_pre_post_processors(policy.config, str(checkpoint), preprocessor_overrides=here)
    except (OSError, ValueError) as error:
        raise EvalError(f"--checkpoint={checkpoint} can't be loaded: {error}") from error
    return policy, preprocess


def open_dataset(root: Path, frames: list[int]) -> "LeRobotDataset":
    """Open the dataset, which has all the frames.

    Raises:
        EvalError: If there is no readable dataset, no frame is asked for, or one that it does not have.
    """
    dataset = read_dataset(read_metadata(root), root, None)
    outside = [frame for frame in frames if not 0 <= frame < dataset.num_frames]
    if outside or not frames:
        raise EvalError(
            f"--frames={frames} must be one or more of the dataset's frames 0 .. "
            f"{dataset.num_frames - 1}" + (f"; {outside} are not." if outside else ".")
        )
    return dataset


def make_depth_reader(policy: "AtlasVLAPolicy") -> Any:
    """Make the reader of the depth, or None where there is none; the reason goes to the terminal, in one line."""
    from lerobot_atlasvla.inspection.depth import GeometryReader

    try:
        return GeometryReader(policy)
    except ValueError as error:
        sys.stdout.write(f"geometry view: no depth row: {' '.join(str(error).split())}\n")
        return None


def make_camera_reader(policy: "AtlasVLAPolicy") -> Any:
    """Make the reader of the cameras' poses of a DA3, or None where there is none."""
    from lerobot_atlasvla.inspection.da3_cameras import DA3Cameras

    if policy.config.vision != "da3":
        return None
    try:
        return DA3Cameras(policy)
    except ValueError as error:
        sys.stdout.write(f"geometry view: no camera poses: {' '.join(str(error).split())}\n")
        return None


def describe_cameras(names: Sequence[str], poses: torch.Tensor) -> str:
    """Say how far each camera is from the first one, and how far it is turned from it."""
    from lerobot_atlasvla.inspection.da3_cameras import distance_and_turn

    distances, turns = (values[0].tolist() for values in distance_and_turn(poses))
    others = list(zip(names, distances, turns, strict=True))[1:]
    said = [f"{name} {distance:.3f} from {names[0]}, turned by {turn:.0f} degrees" for name, distance, turn in others]
    return "; ".join(said) or f"{names[0]} alone"


def draw(
    images: list[np.ndarray],
    attention: "ChunkAttention | None",
    depths: list[np.ndarray] | None,
    title: str,
    path: Path,
    landmarks: "LandmarkViews | None" = None,
) -> None:
    """Write one image with a column per view.

    Args:
        images: Views, (H, W, 3) uint8, in the order of ``views`` of the next.
        attention: Attention over their patches; all views share one scale. None: no such row.
        depths: Depth maps, (h, w); they cover the whole view whatever their size. None: no depth row.
        title: Text above.
        path: Where to write, as PNG; appears there only when it is complete.
        landmarks: Where landmarks look. None: no such row; there is one of the two.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from lerobot_atlasvla.inspection.attention import COLORMAP, draw_attention

    described = attention or landmarks
    assert described is not None
    names = [
        name for name, content in (("attention", attention), ("landmarks", landmarks), ("depth", depths)) if content
    ]
    figure = Figure(figsize=(3.6 * len(images), 3.4 * (1 + len(names)) + 0.6), layout="constrained")
    plain, *others = figure.subplots(1 + len(names), len(images), squeeze=False)
    rows = dict(zip(names, others, strict=True))
    for axes, key, image in zip(plain, described.views, images, strict=True):
        axes.imshow(image)
        axes.set_title(key, fontsize=9)
    if attention is not None:
        largest = float(attention.attention_VHW.max())
        for axes, image, map_HW in zip(rows["attention"], images, attention.attention_VHW, strict=True):
            axes.imshow(draw_attention(image, map_HW, maximum=largest))
            axes.set_title(f"{100 * map_HW.sum():.1f} % of the attention", fontsize=9)
        scale = ScalarMappable(Normalize(0, largest), COLORMAP)
        figure.colorbar(scale, ax=list(rows["attention"]), shrink=0.8, label="attention per patch")
    if landmarks is not None:
        for view, (axes, image) in enumerate(zip(rows["landmarks"], images, strict=True)):
            axes.imshow(image)
            draw_landmarks(axes, image.shape[:2], landmarks.places_VK2[view], landmarks.visibility_VK[view])
        scale = ScalarMappable(Normalize(0, 1), COLORMAP)
        figure.colorbar(scale, ax=list(rows["landmarks"]), shrink=0.8, label="visibility of the landmark")
    if depths is not None:
        for axes, image, depth in zip(rows["depth"], images, depths, strict=True):
            height, width = image.shape[:2]
            # Maps are as large as the policy's own copy of the view, which may have been stretched.
            shown = axes.imshow(depth, cmap="viridis", extent=(0, width, height, 0))
            axes.set_title("depth, in VGGT's own scale", fontsize=9)
            figure.colorbar(shown, ax=axes, shrink=0.8)
    for axes in figure.axes[: len(images) * (1 + len(names))]:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=9, wrap=True)
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")


def draw_landmarks(axes: Any, size: tuple[int, int], places_K2: np.ndarray, visibility_K: np.ndarray) -> None:
    """Mark the landmarks of one view: the more visible, the redder and the less transparent, numbers from ``SEEN`` on.

    Args:
        axes: Shows the view.
        size: Its height and width, pixels.
        places_K2: Where they look, column and row, as parts of its width and height.
        visibility_K: How visible they are, in [0, 1].
    """
    from lerobot_atlasvla.inspection.attention import COLORMAP

    height, width = size
    across, down = places_K2[:, 0] * width - 0.5, places_K2[:, 1] * height - 0.5
    opacity = 0.15 + 0.85 * visibility_K
    axes.scatter(across, down, s=28, c=visibility_K, cmap=COLORMAP, vmin=0, vmax=1, alpha=opacity, edgecolors="white")
    for number in np.flatnonzero(visibility_K >= SEEN):
        place = (across[number], down[number])
        axes.annotate(str(number), place, (3, 3), textcoords="offset points", fontsize=6, color="white")
    axes.set_title(f"{(visibility_K >= SEEN).sum()} of {len(visibility_K)} landmarks seen", fontsize=9)


def show_frames(cfg: GeometryViewConfig) -> list[Path]:
    """Write one image per frame.

    Returns:
        The files, in the order of the frames.

    Raises:
        EvalError: If checkpoint, dataset, frames or folder can't be used, or don't fit each other.
    """
    # The dataset first: its mistakes show within a second, a policy can take a minute to load.
    dataset = open_dataset(cfg.dataset_root, cfg.frames)
    policy, preprocess = load_policy(cfg.checkpoint)

    from lerobot_atlasvla.inspection.attention import AttentionRecorder
    from lerobot_atlasvla.inspection.landmark_views import LandmarkRecorder

    read_depth, read_cameras = make_depth_reader(policy), make_camera_reader(policy)
    # Not where the decoder gets landmarks only.
    sees_patches = policy.config.query_conditioning != "only_landmarks"
    files = []
    for frame in cfg.frames:
        item: Any = dataset[frame]
        observation = {key: value for key, value in item.items() if key.startswith("observation.") or key == "task"}
        batch = preprocess(observation)
        try:
            # Every frame for itself: of an earlier one's episode, the cameras would be remembered.
            policy.reset()
            with ExitStack() as recorders:
                looks = recorders.enter_context(AttentionRecorder(policy)) if sees_patches else None
                finds = recorders.enter_context(LandmarkRecorder(policy)) if policy.config.reads_landmarks else None
                policy.predict_action_chunk(batch)
        except ValueError as error:
            raise EvalError(
                f"frame {frame} of --dataset_root={cfg.dataset_root} does not fit the policy: {error}"
            ) from error
        attention = looks.chunks[0] if looks is not None else None
        landmarks = finds.chunks[0] if finds is not None else None
        described = attention or landmarks
        assert described is not None
        views = described.views
        images = [to_uint8(batch[key][0]) for key in views]
        depths = None if read_depth is None else list(read_depth(batch).depth_BVHW[0].float().cpu().numpy())
        title = f"frame {frame}, episode {int(item['episode_index'])}: {item['task']}"
        file = cfg.output_dir / f"frame_{frame:06d}.png"
        try:
            draw(images, attention, depths, title, file, landmarks)
        except OSError as error:
            raise EvalError(f"--output_dir={cfg.output_dir} can't be written to: {error}") from error
        sys.stdout.write(f"geometry view: {file}\n")
        if read_cameras is not None:
            said = describe_cameras(views, read_cameras(batch))
            sys.stdout.write(f"geometry view: cameras, in DA3's own scale: {said}\n")
        files.append(file)
    return files


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Convert (3, H, W) in [0, 1] to (H, W, 3) uint8."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def run(cfg: GeometryViewConfig, _: str) -> None:
    """Show what the policy makes of the frames."""
    show_frames(cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for what can't be shown, 2 for a flag that does not parse."""
    return run_command("eval.geometry_view", GeometryViewConfig, run, argv)
