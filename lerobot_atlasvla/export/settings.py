"""Settings of ``atlasvla-export``, and what is refused before a weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.utils.paths import CheckpointNotFoundError, checkpoint_folder

FORMATS = ("onnx",)
TABLE, INPUT = "table", "input"
LARGEST_SIDE = 8192
"""Pixels of a camera's image; a larger one is a slip, which would fill the memory."""


class ExportError(ValueError):
    """A policy can't be exported; the message says why and what to change."""


@dataclass
class ExportConfig:
    """Write a policy as one graph: raw images, state and an instruction in, the robot's actions out."""

    # Folder of the checkpoint: .../pretrained_model, or the checkpoint or training run that has it inside. With an L1
    # head.
    checkpoint: Path
    # Folder of the export; it must not exist yet, or be empty.
    output_dir: Path
    # Format of the graph: onnx.
    format: str = "onnx"
    # Where the graph has language features from: table (those of --instructions are in it, and no language model is
    # needed any more) or input (whoever calls it brings features: lerobot_atlasvla.export.reference, encode).
    language: str = TABLE
    # The instructions that the policy will be given, as JSON: '["pick up the cube"]'. The tasks of the dataset that it
    # was trained on if not given, while that is where it was.
    instructions: list[str] | None = None
    # Cameras that have another size than in training, as JSON: '{"observation.images.front": [480, 640]}' (height and
    # width, pixels). An empty camera is left out unless it is named here.
    image_sizes: dict[str, list[int]] = field(default_factory=dict)
    # Quantize the weights of linear layers to 8 bits: a smaller file, and actions that deviate, as the report says.
    int8: bool = False

    def validate(self) -> None:
        """Check what can be judged without the checkpoint, and find its folder.

        Raises:
            ExportError: For a value that can't work; the message names the flag.
        """
        if self.format not in FORMATS:
            raise ExportError(f"--format={self.format} is not known; allowed: {', '.join(FORMATS)}.")
        if self.language not in (TABLE, INPUT):
            raise ExportError(f"--language={self.language} is not known; allowed: {TABLE}, {INPUT}.")
        if self.instructions is not None and self.language == INPUT:
            raise ExportError(f"--instructions is for --language={TABLE}; with {INPUT}, features come from the caller.")
        if self.instructions is not None and len(set(self.instructions)) < max(1, len(self.instructions)):
            raise ExportError(f"--instructions={self.instructions} must name at least one, and none twice.")
        for key, size in self.image_sizes.items():
            if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in size):
                raise ExportError(
                    f"--image_sizes gives {key} the size {size}; it must be [height, width] in pixels, each from 1 to "
                    f"{LARGEST_SIDE}."
                )
        try:
            self.checkpoint = checkpoint_folder(self.checkpoint)
        except CheckpointNotFoundError as error:
            raise ExportError(str(error)) from error
        if self.output_dir.exists() and (not self.output_dir.is_dir() or any(self.output_dir.iterdir())):
            raise ExportError(f"--output_dir={self.output_dir} exists and is not an empty folder; choose a new one.")


def camera_sizes(config: AtlasVLAConfig, asked: Mapping[str, list[int]]) -> dict[str, tuple[int, int]]:
    """Return height and width of the cameras that the graph reads, pixels, in the policy's order.

    Args:
        config: The policy's configuration.
        asked: Sizes other than those of the training data.

    Raises:
        ExportError: For a camera that the policy does not have, or if none is left.
    """
    if unknown := sorted(asked.keys() - set(config.view_keys)):
        raise ExportError(f"--image_sizes names {unknown[0]}, but the policy looks through {list(config.view_keys)}.")
    trained = {key: list(config.image_features[key].shape[1:]) for key in config.view_keys}
    there = [key for key in config.view_keys if key in asked or key not in config.empty_camera_keys]
    if config.view_keys and not there:
        raise ExportError(
            f"The policy has only cameras that may be absent, {list(config.view_keys)}; name those that are there with "
            "--image_sizes."
        )
    sizes = {key: asked.get(key, trained[key]) for key in there}
    return {key: (height, width) for key, (height, width) in sizes.items()}
