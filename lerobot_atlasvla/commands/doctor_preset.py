"""The checks of ``atlasvla-check`` that are about one preset: its device, weights, dataset, and whether it computes.

Each returns what it found in one line, or raises :class:`CheckFailedError`. Imports are inside the functions:
transformers and datasets take seconds to import.
"""

from __future__ import annotations

import copy
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from lerobot_atlasvla.libero.demonstrations.schema import libero_features
from lerobot_atlasvla.policy.checks.types import ConfigError
from lerobot_atlasvla.policy.columns import squeezed_views
from lerobot_atlasvla.utils.errors import brief
from lerobot_atlasvla.utils.paths import pattern_in
from lerobot_atlasvla.utils.patience import with_patience

from .doctor_machine import CheckFailedError, failing_on, gib

if TYPE_CHECKING:
    from lerobot.configs.default import DatasetConfig

    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

_LIBERO_PIXELS = 256
_TASK = "pick up the black bowl between the plate and the ramekin and place it on the plate"
_HUB_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_SAMPLES = 2
_EXACT = "--policy.dtype=float32 --policy.backbone_dtype=float32"


@dataclass
class Trial:
    """Hold what is checked, and what the checks learn on the way.

    Attributes:
        config: The policy's settings.
        dataset: LeRobot's dataset settings; an empty ``repo_id`` is none.
        asked_device: The device asked for, if one was.
        features: What the policy reads and predicts, as a LeRobotDataset describes it.
        meta: LeRobot's metadata of the dataset, if there is one.
        has_frames: Whether the dataset's frames are on this machine.
        tolerance_s: By how much time stamps of the dataset may be off, s.
        policy: Set by :func:`check_policy`, as are the two pipelines.
    """

    config: AtlasVLAConfig
    dataset: DatasetConfig
    asked_device: str | None = None
    features: Mapping[str, Any] = field(default_factory=lambda: libero_features(_LIBERO_PIXELS))
    meta: Any = None
    has_frames: bool = False
    tolerance_s: float = 1e-4
    policy: Any = None
    preprocess: Any = None
    postprocess: Any = None


def check_device(trial: Trial) -> str:
    """Check that the device the policy will use is the one asked for, and computes."""
    import torch

    device, asked = torch.device(trial.config.device or "cpu"), trial.asked_device
    if asked and torch.device(asked).type != device.type:
        raise CheckFailedError(
            f"{asked} was asked for, but PyTorch {torch.__version__} (CUDA {torch.version.cuda}) sees none, and "
            f"LeRobot would take {device} instead",
            f"--policy.device={device}, or install a driver for this PyTorch until `nvidia-smi` shows the GPU",
        )
    try:
        torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as error:
        raise CheckFailedError(
            f"{device} is there but does not compute: {brief(error)}", "--policy.device=cpu, or another PyTorch build"
        ) from error
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device}, {properties.name}, {gib(properties.total_memory)} (PyTorch for CUDA {torch.version.cuda})"
    return f"{device}" if asked or device.type != "cpu" else f"{device} (PyTorch {torch.__version__} sees no GPU)"


def check_weights(trial: Trial, part: str) -> str:
    """Check that a backbone's weights are there; downloads them if only the Hub has them."""
    from lerobot_atlasvla.weights import backbones
    from lerobot_atlasvla.weights.download import WeightsError

    if part not in backbones.pretrained_parts(trial.config):
        return f"random, as asked (--policy.{part}_init=random)"
    with failing_on(WeightsError):
        found = backbones.resolve(trial.config, part)
    size = sum(file.stat().st_size for file in found.weights) / 1e9
    name = f"{found.name} at commit {found.revision}, " if found.revision else ""
    return f"{name}{size:.2f} GB in {found.folder}" + (f"; {found.fallback}" if found.fallback else "")


def check_tokenizer(trial: Trial) -> str:
    """Check that the tokenizer loads."""
    from lerobot_atlasvla.processor_atlasvla import make_tokenizer
    from lerobot_atlasvla.weights.download import WeightsError

    with failing_on(WeightsError):
        tokenizer = make_tokenizer(trial.config)
    whose = "bytes, built in" if trial.config.language_init == "random" else f"of {trial.config.language_model}"
    return f"{whose}; {len(tokenizer)} tokens, at most {trial.config.tokenizer_max_length} in an instruction"


def check_dataset(trial: Trial) -> str:
    """Check that the dataset is there and has what the policy reads. No image of it is read."""
    wanted = trial.dataset
    if not wanted.repo_id:
        return (
            "none configured, so none checked (--dataset.repo_id=NAME, with --dataset.root=FOLDER if it is local); "
            "below, observations are made up with LIBERO's features"
        )
    from lerobot_atlasvla.policy.checks.statistics import unscaled_ranges
    from lerobot_atlasvla.training.dataset_checks import check_numbers
    from lerobot_atlasvla.training.held_out import demonstrations, leak_of

    meta, local = _read_metadata(wanted)
    try:
        config = _with_features(trial.config, meta.features)
        config.validate_features(meta)
        if local:
            check_numbers(config, meta)
        warnings = [unscaled_ranges(config, meta.stats or {})]
        if local and wanted.eval_split:
            split, episodes = {"episodes": wanted.episodes, "eval_split": wanted.eval_split}, cast(Any, meta.episodes)
            warnings.append(leak_of(split, list(episodes["tasks"]), demonstrations(meta.root)))
    except (ValueError, ConfigError) as error:
        raise CheckFailedError(f"{wanted.repo_id} does not fit: {error}") from error
    trial.features, trial.meta, trial.has_frames = meta.features, meta, local and not wanted.streaming
    state = f"state {config.state_dim}, " if config.use_state else ""
    return (
        f"{wanted.repo_id} ({meta.info.codebase_version}) in {meta.root}: {meta.total_episodes} episodes, "
        f"{meta.total_frames} frames; {', '.join(config.view_keys)}; {state}action {config.action_dim}"
        + "".join(f"; WARNING: {warning}" for warning in warnings if warning)
        + (f". {squeezed}" if (squeezed := squeezed_views(config)) else "")
    )


def _read_metadata(wanted: DatasetConfig) -> tuple[Any, bool]:
    """Return LeRobot's metadata of a dataset, and whether the dataset is on this machine.

    Raises:
        CheckFailedError: If it is neither here nor on the Hub, or can't be read.
    """
    import httpx
    from huggingface_hub import HfApi
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.utils.constants import HF_LEROBOT_HOME

    name, place = wanted.repo_id, str(wanted.root or "FOLDER")
    folder = Path(wanted.root) if wanted.root else HF_LEROBOT_HOME / name
    local = (folder / "meta/info.json").is_file()
    fix = (
        "name its folder with --dataset.root=FOLDER; or, where the Hub can be reached, "
        f"`{shlex.join(['hf', 'download', '--repo-type', 'dataset', name, '--local-dir', place])}`; or make one with "
        f"`{shlex.join(['atlasvla-collect', f'--root={place}'])}`"
    )
    if problem := pattern_in(folder, "--dataset.root"):
        raise CheckFailedError(problem)
    if wanted.root and not local:
        raise CheckFailedError(f"--dataset.root={folder} holds no dataset (no meta/info.json there)", fix)
    if not local and wanted.repo_type == "dataset":
        try:  # with a deadline: LeRobot's own reader retries for long when the Hub is out of reach
            with_patience(lambda: HfApi().dataset_info(name, timeout=_HUB_SECONDS), seconds=_ANSWER_SECONDS)
        # ImportError, InvalidURL and ValueError: a proxy that the client can't use.
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError, ImportError) as error:
            raise CheckFailedError(
                f"{name} is not in {folder}, nor can it be had from the Hub: {brief(error)}", fix
            ) from error
    try:
        meta = LeRobotDatasetMetadata(
            name,
            root=wanted.root,
            revision=wanted.revision,
            repo_type=wanted.repo_type,  # pyrefly: ignore[bad-argument-type] (LeRobot has checked it)
        )
    except Exception as error:  # LeRobot's reader raises whatever the file makes it stumble over
        raise CheckFailedError(f"{name} can't be read in {folder}: {brief(error)}", fix) from error
    if local and not any(meta.root.glob("data/*/*.parquet")):
        raise CheckFailedError(f"{meta.root} describes a dataset but has no data/*/*.parquet", fix)
    return meta, local


def _with_features(config: AtlasVLAConfig, features: Mapping[str, Any]) -> AtlasVLAConfig:
    """Return a copy with a dataset's features, as LeRobot's ``make_policy`` fills them in."""
    from lerobot.configs.types import FeatureType
    from lerobot.utils.feature_utils import dataset_to_policy_features

    known, filled = dataset_to_policy_features(dict(features)), copy.copy(config)
    filled.output_features = {key: feature for key, feature in known.items() if feature.type is FeatureType.ACTION}
    if not filled.input_features:
        filled.input_features = {key: feature for key, feature in known.items() if key not in filled.output_features}
    return filled


def check_policy(trial: Trial) -> str:
    """Check that the policy can be built and its weights read."""
    from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors

    config = _with_features(trial.config, trial.features)
    started = time.perf_counter()
    # Statistics, weights and features that do not fit; the message says what to change.
    with failing_on(ValueError, ConfigError):
        trial.policy = AtlasVLAPolicy(config, dataset_meta=trial.meta).to(config.device)
        stats = None if trial.meta is None else trial.meta.stats
        trial.preprocess, trial.postprocess = make_atlasvla_pre_post_processors(config, stats)
    seconds = time.perf_counter() - started
    parameters = list(trial.policy.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    return f"built in {seconds:.1f} s; {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained"


def check_forward(trial: Trial) -> str:
    """Check that a batch gives a finite loss, computed as in training: of the dataset, or made up without one."""
    import torch

    config = trial.policy.config
    sample, what = _batch(trial)
    trial.policy.train()
    dtype = getattr(torch, config.dtype)

    def loss() -> float:
        # In training, accelerate does this.
        with torch.autocast(torch.device(config.device).type, dtype=dtype, enabled=config.dtype != "float32"):
            return trial.policy.forward(trial.preprocess(dict(sample)))[0].item()

    with failing_on(ValueError):  # a batch that the policy can't read; the message says what to change
        value, times = _twice(loss)
    if not math.isfinite(value):
        raise CheckFailedError(f"the loss of {what} is {value}", _EXACT)
    return f"{what}, loss {value:.3f}; {times}"


def _batch(trial: Trial) -> tuple[dict[str, Any], str]:
    """Return a batch as training gets it, and what it is: frames of the dataset where they are here, else made up."""
    import torch

    config = trial.policy.config
    if not trial.has_frames:
        sample = _observation(config, _SAMPLES) | {
            "action": torch.rand(_SAMPLES, config.chunk_size, config.action_dim) * 2 - 1,
            "action_is_pad": torch.zeros(_SAMPLES, config.chunk_size, dtype=torch.bool),
            "task": [_TASK] * _SAMPLES,
            "index": torch.arange(_SAMPLES),
        }
        unread = "" if trial.meta is None else " (the dataset's own frames are not on this machine, so none was read)"
        return sample, f"{_SAMPLES} made-up samples{unread}"
    from lerobot.datasets.factory import make_dataset
    from lerobot.utils.collate import lerobot_collate_fn

    # LeRobot's maker of datasets asks its train settings for no more than this.
    settings: Any = SimpleNamespace(dataset=trial.dataset, trainable_config=config, tolerance_s=trial.tolerance_s)
    try:
        dataset: Any = make_dataset(settings)
        places = sorted({0, len(dataset) - 1})
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, places),
            batch_size=len(places),
            collate_fn=lerobot_collate_fn if dataset.meta.has_language_columns else None,
        )
        batch = next(iter(loader))
    except Exception as error:  # LeRobot's reader raises whatever the files make it stumble over
        raise CheckFailedError(
            f"the first and the last frame of {trial.dataset.repo_id} can't be read: {brief(error)}",
            "make or download the dataset again",
        ) from error
    for key in dataset.meta.camera_keys:
        if batch[key].dtype == torch.uint8:  # as LeRobot's training does
            batch[key] = batch[key].float() / 255
    return batch, f"the first and the last frame of {trial.dataset.repo_id}"


def check_select_action(trial: Trial) -> str:
    """Check that one made-up observation gives a finite action, through both pipelines, as on a robot."""
    config = trial.policy.config
    observation = {key: value[0] for key, value in _observation(config, 1).items()} | {"task": _TASK}

    def act() -> Any:
        trial.policy.reset()  # so that the second call predicts again
        return trial.postprocess(trial.policy.select_action(trial.preprocess(dict(observation))))

    try:
        action, times = _twice(act)
    except ValueError as error:
        raise CheckFailedError(f"{error} {config.action_dim} finite numbers were expected", _EXACT) from error
    if tuple(action.shape) != (1, config.action_dim):
        raise CheckFailedError(f"the action has shape {tuple(action.shape)}, not {(1, config.action_dim)}")
    return f"{config.action_dim} numbers; {times}; peak memory so far {_peak_memory(config.device)}"


def _observation(config: AtlasVLAConfig, size: int) -> dict[str, Any]:
    import torch

    return {key: torch.rand(size, *feature.shape) for key, feature in (config.input_features or {}).items()}


def _twice(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the second result, and the time of both calls: the first one includes what happens only once."""
    started = time.perf_counter()
    call()
    between = time.perf_counter()
    result = call()
    return result, f"first call {between - started:.2f} s, second {time.perf_counter() - between:.2f} s"


def _peak_memory(device: str | None) -> str:
    import resource

    import torch

    process = gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    if torch.device(device or "cpu").type != "cuda":
        return process
    return f"{gib(torch.cuda.max_memory_allocated())} on the GPU, {process} in the process"
