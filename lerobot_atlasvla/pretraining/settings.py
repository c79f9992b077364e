"""Settings of ``atlasvla-pretrain``, and what is refused before any data are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lerobot_atlasvla.model.geometry.record import FRAMES, GeometryRecord, RecordError, check_views
from lerobot_atlasvla.model.sizes.architecture import DINOV2_SIZES, PATCH_EMBEDDERS
from lerobot_atlasvla.utils.setting_checks import check_dataset_root, check_in_range, check_names_folder

CELLS_PER_SIDE = 2
"""Cells per patch side, whose depth and point the heads predict."""


class PretrainError(Exception):
    """Pretraining cannot start or go on; the message says why and what to change."""


@dataclass
class PretrainConfig:
    """Settings of ``atlasvla-pretrain``. Running the same command again continues where a killed run stopped."""

    # Folder of the dataset: a LeRobotDataset with depth and cameras, as atlasvla-collect-geometry makes it.
    dataset_root: Path
    # Folder of the backbone. It must not exist yet, be empty, or hold what this command made with the same settings.
    output_dir: Path
    # Name of the dataset, for the record.
    repo_id: str = "local/atlasvla_geometry"
    # Roles of the cameras, the reference first. A role is a view of that name, or of that name and a number (scene_0,
    # scene_1): then each sample takes one of them at random.
    views: list[str] = field(default_factory=lambda: ["wrist", "scene"])
    # Frame of points and poses: first_view (the camera of the first role), or base (the robot's, which the backbone
    # learns to see; for a camera that stands still and no wrist camera).
    frame: str = "first_view"
    # [height, width] in pixels of what the backbone sees. That of the stored images if not given.
    image_size: list[int] | None = None
    # Patch embedder: conv_stem, conv, or a dinov2_*_reg.
    patch_embed: str = "conv_stem"
    # Pixels per patch side.
    patch_size: int = 8
    # Width of the aggregator.
    embed_dim: int = 128
    # Frame/global pairs of blocks.
    depth: int = 2
    # Attention heads.
    num_heads: int = 4
    # Register tokens per view.
    num_register_tokens: int = 2
    # Hidden width of the heads.
    hidden_dim: int = 256
    # Width of the descriptors by which views are matched.
    descriptor_dim: int = 24
    # Training steps. 0 writes a backbone that has learned nothing, a control with the same heads and scales.
    steps: int = 2400
    # States per step; where the data have several views of one role, each state is seen twice.
    batch_size: int = 10
    # AdamW: peak learning rate; a warm-up of 50 steps, then a cosine to zero.
    lr: float = 1e-3
    # Share of the episodes that are kept from training; errors are measured on them.
    held_out: float = 0.05
    # Steps between two measurements; each is also a point from which a killed run continues.
    eval_every: int = 400
    # Seed of weights, batches, and of which episodes are held out.
    seed: int = 0
    # Device, such as cuda.
    device: str = "cpu"

    def validate(self) -> None:
        """Raise :class:`PretrainError` for the first setting that cannot work."""
        check_dataset_root(PretrainError, self, "dataset_root")
        check_names_folder(PretrainError, self, "output_dir")
        if self.frame not in FRAMES:
            raise PretrainError(f"--frame={self.frame} must be one of {', '.join(FRAMES)}.")
        if self.patch_embed not in PATCH_EMBEDDERS:
            raise PretrainError(f"--patch_embed={self.patch_embed} must be one of {', '.join(PATCH_EMBEDDERS)}.")
        limits = {
            "patch_size": (1, 256),
            "embed_dim": (4, 4096),
            "depth": (1, 64),
            "num_heads": (1, 256),
            "num_register_tokens": (1, 256),
            "hidden_dim": (1, 4096),
            "descriptor_dim": (1, 1024),
            "steps": (0, 10**9),
            "batch_size": (1, 4096),
            "eval_every": (1, 10**9),
            "seed": (0, 2**32 - 1),
        }
        check_in_range(PretrainError, self, **limits)
        for name in ("lr", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise PretrainError(f"--{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.embed_dim % (4 * self.num_heads):
            raise PretrainError(
                f"--embed_dim={self.embed_dim} must be a multiple of 4 x --num_heads = {4 * self.num_heads}."
            )
        if self.patch_embed == "conv_stem" and (self.patch_size < 4 or self.patch_size & (self.patch_size - 1)):
            raise PretrainError(
                f"--patch_size={self.patch_size} must be a power of two and at least 4 for --patch_embed=conv_stem."
            )
        width = DINOV2_SIZES.get(self.patch_embed, (self.embed_dim,))[0]
        if width != self.embed_dim:
            raise PretrainError(f"--embed_dim={self.embed_dim} must be {width} for --patch_embed={self.patch_embed}.")
        try:
            check_views(self.views)
        except RecordError as error:
            raise PretrainError(f"{error} (--views).") from error
        if self.image_size is not None:
            self.check_image_size(self.image_size)

    def check_image_size(self, size: list[int]) -> None:
        """Raise :class:`PretrainError` for images that do not divide into patches."""
        if len(size) != 2 or any(side < self.patch_size or side % self.patch_size or side > 2048 for side in size):
            raise PretrainError(
                f"Images of {size} (height, width) do not divide into patches of {self.patch_size} pixels, or have "
                "more than 2048: change --image_size or --patch_size."
            )

    def fixed(self) -> dict[str, Any]:
        """Return the settings that one run shares from beginning to end, JSON types."""
        return {
            name: value for name, value in asdict(self).items() if name not in ("dataset_root", "output_dir", "device")
        }

    def record(self, image_size: tuple[int, int], heads: Any) -> GeometryRecord:
        """Return the record of the backbone that these settings make."""
        return GeometryRecord(
            patch_embed=self.patch_embed,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            num_register_tokens=self.num_register_tokens,
            image_size=image_size,
            views=tuple(self.views),
            heads=heads,
        )
