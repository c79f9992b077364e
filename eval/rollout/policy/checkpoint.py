"""A LeRobot checkpoint as far as it can be judged without loading its weights."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from eval.common.errors import EvalError
from eval.common.files import Recorded, read_object
from eval.rollout.policy.camera_keys import SCENE, camera_mapping
from eval.rollout.settings import RunConfig
from lerobot_atlasvla.utils.errors import first_line
from lerobot_atlasvla.utils.extras import MissingExtraError, require
from lerobot_atlasvla.utils.paths import CheckpointNotFoundError, checkpoint_folder

if TYPE_CHECKING:
    from lerobot.configs.policies import PreTrainedConfig

logger = logging.getLogger("eval.run")

BLIND_IMAGE_SIZE = 256
CONFIG_FILE = "config.json"
TRAIN_CONFIG_FILE = "train_config.json"
EXPORT_FILE = "export.json"
# Of a whole policy, of an adapter on top of another one, or of what atlasvla-export wrote.
_RECORDED_BY_RUNS = ("device", "n_action_steps", "temporal_ensemble_coeff")
"""Settings of ``config.json`` that a run's flags may change, and that its folder records one by one."""
_WEIGHTS_FILES = ("model.safetensors", "adapter_model.safetensors", "model.onnx")
# What LeRobot's policies raise when their weights or processors are damaged or don't fit.
LOADING_ERRORS = (OSError, RuntimeError, ValueError, SafetensorError)
_COLLECT_RECORD = Path("meta/atlasvla_collect.json")
# Policies of LeRobot 0.6 whose select_action uses the images of the steps at which it fills its queue of
# n_action_steps actions, and no others. Not among them: those that keep a history whatever n_obs_steps says (vqbet,
# tdmpc, lingbot_va), and groot, which has its own idea of the queue's length.
_OBSERVES_ONCE_PER_CHUNK = (
    "act",
    "atlasvla",
    "diffusion",
    "eo1",
    "evo1",
    "fastwam",
    "molmoact2",
    "pi0",
    "pi0_fast",
    "pi05",
    "smolvla",
    "vla_jepa",
    "wall_x",
    "xvla",
)


@dataclass(frozen=True)
class Checkpoint:
    """Hold a checkpoint that appears to be complete.

    Attributes:
        folder: Has ``config.json`` and the weights.
        config: The policy's configuration, with ``device`` and ``n_action_steps`` as they will be used.
        weights_sha256: Digest of the weights file.
        settings_sha256: Digest of all else that decides its actions: configuration, pipelines and their statistics.
    """

    folder: Path
    config: "PreTrainedConfig"
    weights_sha256: str
    settings_sha256: str

    @property
    def is_export(self) -> bool:
        """Return whether it is what ``atlasvla-export`` wrote, which runs in onnxruntime."""
        return (self.folder / EXPORT_FILE).is_file()

    @property
    def kind(self) -> str:
        """Return the policy's type, and whether it is an export."""
        return f"{self.config.type} (onnx)" if self.is_export else self.config.type

    @property
    def n_action_steps(self) -> int | None:
        """Actions executed per chunk; None for a policy that knows no such number."""
        return getattr(self.config, "n_action_steps", None)

    @property
    def chunk_size(self) -> int | None:
        """Actions the policy predicts at a time and can execute; None if its configuration does not say."""
        return _chunk_size(self.config)

    @property
    def images_every(self) -> int | None:
        """Return the steps from one image that the policy uses to the next; None if it may use every step's."""
        if self.config.type not in _OBSERVES_ONCE_PER_CHUNK or self.config.n_obs_steps != 1:
            return None
        return self.n_action_steps

    @property
    def trained_image_size(self) -> int | None:
        """Return the side of the images it was trained on, pixels; None if not square or not the same in all views."""
        sides = {side for feature in self.config.image_features.values() for side in feature.shape[-2:]}
        return sides.pop() if len(sides) == 1 else None

    def check_instructions(self, instructions: Sequence[str]) -> None:
        """Refuse instructions that an export has no features of.

        Raises:
            EvalError: Naming the first one.
        """
        if not self.is_export:
            return
        file = self.folder / EXPORT_FILE
        known = Recorded(file, "atlasvla-export", read_object(file, "atlasvla-export"))["instructions"]
        if unknown := [instruction for instruction in instructions if instruction not in known]:
            raise EvalError(
                f"The export knows {len(known)} instructions ({file}), and {unknown[0]!r} is not among them; roll out "
                "tasks that it knows (--suites, --task_ids), or export the policy with that one in --instructions."
            )

    def training_assets(self) -> str | None:
        """Return the LIBERO assets that the demonstrations were made on, where that can still be found out.

        ``atlasvla-collect`` leaves them in the dataset, whose folder is in the checkpoint's ``train_config.json``:
        ``official (verified)`` and the like, or the kind alone in datasets of earlier versions.
        """
        root = (training_dataset(self.folder) or {}).get("root")
        record = read_json(Path(root) / _COLLECT_RECORD) if root else {}
        return (record.get("simulator") or {}).get("assets") or record.get("assets")


@dataclass(frozen=True)
class EvaluatedPolicy:
    """Hold a checkpoint and how it is rolled out.

    Attributes:
        checkpoint: The policy, with the device and the number of executed actions in force.
        device: Where it runs.
        cameras: LIBERO's cameras to the policy's views.
        image_size: Side of the rendered images, pixels.
    """

    checkpoint: Checkpoint
    device: str
    cameras: dict[str, str]
    image_size: int


def open_policy(cfg: RunConfig) -> EvaluatedPolicy:
    """Find the checkpoint and settle how it is rolled out; its weights are loaded by the workers.

    Raises:
        EvalError: If it can't be read, or a setting does not fit it.
    """
    device = choose_device(cfg.device)
    checkpoint = read_checkpoint(cfg.checkpoint, device, **cfg.policy_overrides)
    if checkpoint.is_export:
        if device != "cpu":
            raise EvalError(f"--checkpoint={cfg.checkpoint} is an export, which runs on the CPU (--device=cpu).")
        if cfg.temporal_ensemble_coeff is not None:
            raise EvalError(
                f"--temporal_ensemble_coeff={cfg.temporal_ensemble_coeff} cannot be set: --checkpoint={cfg.checkpoint} "
                "is an export, which does not average its chunks; leave it out."
            )
        try:
            require("onnxruntime", "export", f"--checkpoint={cfg.checkpoint}")
        except MissingExtraError as error:
            raise EvalError(f"{error}.") from error
    cameras = camera_mapping(list(checkpoint.config.image_features), cfg.cameras)
    if cfg.overlay and checkpoint.kind != "atlasvla":
        raise EvalError(f"--overlay=true is for policies of type atlasvla; this one is of type {checkpoint.kind}.")
    conditioning = getattr(checkpoint.config, "query_conditioning", "")
    if cfg.overlay and conditioning == "only_landmarks":
        raise EvalError(
            "--overlay=true shows where the decoder looks in the images; that of this policy sees no image patches "
            f"(query_conditioning={conditioning}). Leave it out."
        )
    if cfg.overlay and SCENE not in cameras:
        raise EvalError("--overlay=true shows the scene camera, which this policy does not have.")
    return EvaluatedPolicy(checkpoint, device, cameras, choose_image_size(cfg.image_size, checkpoint))


def choose_device(asked: str | None) -> str:
    """Return ``asked``, or cuda where there is one, or cpu.

    Raises:
        EvalError: If this machine has no such device.
    """
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise EvalError(f"--device={asked} cannot be used here: {first_line(error)}") from error
    return asked


def choose_image_size(asked: int | None, checkpoint: Checkpoint) -> int:
    """Return ``asked``, or the side of the images that the policy was trained on; warns where the two differ.

    A blind policy was trained on none and is shown none: any size will do. An export takes images of its own size only.

    Raises:
        EvalError: If nothing is asked for and the policy's views have several sizes, or an export takes no such images.
    """
    trained_on = checkpoint.trained_image_size
    if not checkpoint.config.image_features:
        return asked or BLIND_IMAGE_SIZE
    if checkpoint.is_export:
        return _export_image_size(asked, checkpoint.folder / EXPORT_FILE)
    if asked is None:
        if trained_on is None:
            raise EvalError("The policy's views are not square, or of several sizes; choose one with --image_size.")
        return trained_on
    if trained_on not in (None, asked):
        logger.warning(
            "The policy was trained on images of %s px and gets %s px. Policies of type atlasvla resize them; "
            "others, such as act, may take them as they are and fail.",
            trained_on,
            asked,
        )
    return asked


def read_checkpoint(
    path: Path, device: str, n_action_steps: int | None = None, temporal_ensemble_coeff: float | None = None
) -> Checkpoint:
    """Find and read a checkpoint.

    Args:
        path: Folder of ``pretrained_model``, or the checkpoint or training run that has it inside.
        device: Where the policy will run.
        n_action_steps: Number of actions to execute per chunk instead of the checkpoint's own.
        temporal_ensemble_coeff: How chunks are averaged instead of as the checkpoint says.

    Raises:
        EvalError: If there is no checkpoint, its configuration cannot be read, its pipelines name code to run, or
            ``n_action_steps`` or ``temporal_ensemble_coeff`` does not fit it.
    """
    import lerobot.policies  # noqa: F401 - registers LeRobot's own
    from lerobot.configs.policies import PreTrainedConfig

    from lerobot_atlasvla.policy.pipelines.files import PipelineError, check_pipelines
    from lerobot_atlasvla.weights.checkpoint import UNREADABLE_CONFIG

    folder = find_checkpoint(path)
    weights = [folder / name for name in _WEIGHTS_FILES if (folder / name).is_file()]
    if not weights:
        raise EvalError(f"--checkpoint={path} has no weights: {folder} lacks {' or '.join(_WEIGHTS_FILES)}.")
    try:
        check_pipelines(folder, ours=False)
        config = PreTrainedConfig.from_pretrained(folder)
        _check_action_steps(config, n_action_steps)
        # Parsed again with the values in force, so that the policy's own checks see them.
        overrides = [f"--device={device}"]
        if n_action_steps is not None:
            overrides.append(f"--n_action_steps={n_action_steps}")
        if temporal_ensemble_coeff is not None:
            if not hasattr(config, "temporal_ensemble_coeff"):
                raise EvalError(
                    f"--temporal_ensemble_coeff={temporal_ensemble_coeff} cannot be set: a policy of type "
                    f"{config.type} does not average its chunks."
                )
            overrides.append(f"--temporal_ensemble_coeff={temporal_ensemble_coeff}")
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=overrides)
    except (*UNREADABLE_CONFIG, NotImplementedError) as error:
        file = "" if isinstance(error, PipelineError) else f" {folder / CONFIG_FILE} cannot be used:"
        raise EvalError(f"--checkpoint={path}:{file} {error}") from error
    config.pretrained_path = folder
    with weights[0].open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Checkpoint(folder, config, digest, _settings_digest(folder, weights[0]))


def _settings_digest(folder: Path, weights: Path) -> str:
    settings = {name: value for name, value in read_json(folder / CONFIG_FILE).items() if name not in _RECORDED_BY_RUNS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(folder.iterdir()):
        apart = (weights.name, CONFIG_FILE, TRAIN_CONFIG_FILE)
        if file.suffix in (".json", ".safetensors", ".npz") and file.name not in apart:
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that LeRobot or ``atlasvla-collect`` wrote, empty if there is no such file.

    Raises:
        EvalError: If the file holds something else.
    """
    return read_object(file, "LeRobot") if file.is_file() else {}


def training_dataset(folder: Path) -> Recorded | None:
    """Return what a checkpoint says of the data that it was trained on; None if it says nothing.

    Args:
        folder: The checkpoint's ``pretrained_model``.

    Raises:
        EvalError: If its ``train_config.json`` is of something else.
    """
    file = folder / TRAIN_CONFIG_FILE
    dataset = read_json(file).get("dataset")
    if not isinstance(dataset, dict | None):
        raise EvalError(f"{file} is not what LeRobot writes: its dataset is {dataset!r:.100}.")
    return None if dataset is None else Recorded(file, "LeRobot", dataset)


def find_checkpoint(path: Path) -> Path:
    """Return the folder named ``pretrained_model`` of a checkpoint, wherever above it ``path`` points.

    Raises:
        EvalError: If there is none.
    """
    try:
        return checkpoint_folder(path)
    except CheckpointNotFoundError as error:
        raise EvalError(str(error)) from error


def _export_image_size(asked: int | None, file: Path) -> int:
    """Return the side of the images that an export takes, which its graph fixes."""
    cameras = Recorded(file, "atlasvla-export", read_object(file, "atlasvla-export"))["cameras"]
    sides = {side for size in cameras.values() for side in size}
    if len(sides) != 1:
        raise EvalError(
            f"{file} says that the export's cameras have the sizes {cameras}, but rollouts show square images of one "
            "size; export the policy again with other --image_sizes."
        )
    if asked not in (None, *sides):
        raise EvalError(
            f"--image_size={asked} cannot be set: the export takes images of {sides.pop()} px ({file}); leave it out, "
            "or export the policy again with other --image_sizes."
        )
    return sides.pop()


def _chunk_size(config: "PreTrainedConfig") -> int | None:
    chunk_size = getattr(config, "chunk_size", None)
    if chunk_size is None and (horizon := getattr(config, "horizon", None)) is not None:
        # Diffusion policies predict from the first observation on; what lies in the past is not executed.
        return horizon - config.n_obs_steps + 1
    return chunk_size


def _check_action_steps(config: "PreTrainedConfig", n_action_steps: int | None) -> None:
    if n_action_steps is None:
        return
    if not hasattr(config, "n_action_steps"):
        raise EvalError(
            f"--n_action_steps={n_action_steps} cannot be set: a policy of type {config.type} has no such number."
        )
    limit = _chunk_size(config)
    if limit is not None and not 1 <= n_action_steps <= limit:
        raise EvalError(
            f"--n_action_steps={n_action_steps} must lie in 1 .. {limit}, the actions of one chunk of this checkpoint."
        )
