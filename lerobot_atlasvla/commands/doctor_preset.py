"""The items of ``atlasvla-check`` that are about one preset: its device, weights, dataset, and whether it computes.

Each returns what it found in one line, or raises :class:`CheckFailedError`. Imports are inside the functions:
transformers and datasets take seconds to import.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot_atlasvla.commands.doctor_machine import CheckFailedError, brief, gib
from lerobot_atlasvla.data.schema import libero_features

if TYPE_CHECKING:
    from lerobot.configs.default import DatasetConfig

    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

_LIBERO_PIXELS = 256
_TASK = "pick up the black bowl between the plate and the ramekin and place it on the plate"
_HUB_SECONDS = 5.0


@dataclass
class Trial:
    """What is checked, and what the checks learn on the way.

    Attributes:
        config: The policy's settings.
        dataset: LeRobot's dataset settings; an empty ``repo_id`` is none.
        asked_device: The device asked for, if one was.
        features: What the policy reads and predicts, as a LeRobotDataset describes it.
        stats: The dataset's statistics, if there is one.
        policy: Set by :func:`check_policy`, as are the two pipelines.
    """

    config: AtlasVLAConfig
    dataset: DatasetConfig
    asked_device: str | None = None
    features: Mapping[str, Any] = field(default_factory=lambda: libero_features(_LIBERO_PIXELS))
    stats: Any = None
    policy: Any = None
    preprocess: Any = None
    postprocess: Any = None


def check_device(trial: Trial) -> str:
    """Whether the device the policy will use is the one asked for, and computes."""
    import torch

    device = torch.device(trial.config.device or "cpu")
    asked = trial.asked_device
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
    """Whether a backbone's weights are there; downloads them if only the Hub has them."""
    from lerobot_atlasvla.weights import backbones
    from lerobot_atlasvla.weights.download import WeightsError

    if part not in backbones.pretrained_parts(trial.config):
        return f"random, as asked (--policy.{part}_init=random)"
    try:
        located = backbones.find(trial.config, part)
    except WeightsError as error:
        raise CheckFailedError(str(error)) from error
    size = sum(file.stat().st_size for file in located.weights) / 1e9
    name = f"{located.name} at commit {located.revision}, " if located.revision else ""
    return f"{name}{size:.2f} GB in {located.folder}" + (f"; {located.fallback}" if located.fallback else "")


def check_tokenizer(trial: Trial) -> str:
    """Whether the tokenizer loads."""
    from lerobot_atlasvla.processor_atlasvla import make_tokenizer
    from lerobot_atlasvla.weights.download import WeightsError

    try:
        tokenizer = make_tokenizer(trial.config)
    except WeightsError as error:
        raise CheckFailedError(str(error)) from error
    whose = "bytes, built in" if trial.config.language_init == "random" else f"of {trial.config.language_model}"
    return f"{whose}; {len(tokenizer)} tokens, at most {trial.config.tokenizer_max_length} in an instruction"


def check_dataset(trial: Trial) -> str:
    """Whether the dataset is there and has what the policy reads; only its description is read."""
    wanted = trial.dataset
    if not wanted.repo_id:
        return (
            "none configured, so none checked (--dataset.repo_id=NAME, with --dataset.root=FOLDER if it is local); "
            "below, observations are made up with LIBERO's features"
        )
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.utils.constants import HF_LEROBOT_HOME

    folder = Path(wanted.root) if wanted.root else HF_LEROBOT_HOME / wanted.repo_id
    local = (folder / "meta/info.json").is_file()
    fix = _dataset_fix(wanted.repo_id, wanted.root or "FOLDER")
    if wanted.root and not local:
        raise CheckFailedError(f"--dataset.root={folder} holds no dataset (no meta/info.json there)", fix)
    if not local and wanted.repo_type == "dataset":
        _ask_hub(wanted.repo_id, folder, fix)
    try:
        meta = LeRobotDatasetMetadata(
            wanted.repo_id,
            root=wanted.root,
            revision=wanted.revision,
            repo_type=wanted.repo_type,  # pyrefly: ignore[bad-argument-type] (LeRobot has checked it)
        )
    except Exception as error:  # LeRobot's reader raises whatever the file makes it stumble over
        raise CheckFailedError(f"{wanted.repo_id} can't be read in {folder}: {brief(error)}", fix) from error
    if local and not any(meta.root.glob("data/*/*.parquet")):
        raise CheckFailedError(f"{meta.root} describes a dataset but has no data/*/*.parquet", fix)
    probe = copy.copy(trial.config)
    try:
        _set_features(probe, meta.features)
        probe.validate_features()
    except ValueError as error:
        raise CheckFailedError(f"{wanted.repo_id} does not fit: {error}") from error
    trial.features, trial.stats = meta.features, meta.stats
    state = f"state {probe.state_dim}, " if probe.use_state else ""
    return (
        f"{wanted.repo_id} ({meta.info.codebase_version}) in {meta.root}: {meta.total_episodes} episodes, "
        f"{meta.total_frames} frames; {', '.join(probe.view_keys)}; {state}action {probe.action_dim}"
    )


def _dataset_fix(repo_id: str, folder: str) -> str:
    return (
        "name its folder with --dataset.root=FOLDER; or, where the Hub can be reached, "
        f"`hf download --repo-type dataset {repo_id} --local-dir {folder}`; or make one with "
        f"`atlasvla-collect --root={folder}`"
    )


def _ask_hub(repo_id: str, folder: Path, fix: str) -> None:
    """Ask with a deadline: LeRobot's own reader retries for long when the Hub is out of reach."""
    import httpx
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(repo_id, timeout=_HUB_SECONDS)
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise CheckFailedError(
            f"{repo_id} is not in {folder}, nor can it be had from the Hub: {brief(error)}", fix
        ) from error


def _set_features(config: AtlasVLAConfig, features: Mapping[str, Any]) -> None:
    """What LeRobot's ``make_policy`` does with a dataset's features."""
    from lerobot.configs.types import FeatureType
    from lerobot.utils.feature_utils import dataset_to_policy_features

    known = dataset_to_policy_features(dict(features))
    config.output_features = {key: feature for key, feature in known.items() if feature.type is FeatureType.ACTION}
    if not config.input_features:
        config.input_features = {key: feature for key, feature in known.items() if key not in config.output_features}


def check_policy(trial: Trial) -> str:
    """Whether the policy can be built and its weights read."""
    from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors

    config = trial.config
    _set_features(config, trial.features)
    started = time.perf_counter()
    try:
        trial.policy = AtlasVLAPolicy(config).to(config.device)
        trial.preprocess, trial.postprocess = make_atlasvla_pre_post_processors(config, trial.stats)
    except ValueError as error:  # weights and features that do not fit; the message says what to change
        raise CheckFailedError(str(error)) from error
    seconds = time.perf_counter() - started
    parameters = list(trial.policy.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return (
        f"built in {seconds:.1f} s; {_millions(sum(parameter.numel() for parameter in parameters))} parameters, "
        f"{_millions(trained)} trained"
    )


def check_forward(trial: Trial) -> str:
    """Whether two made-up samples give a finite loss, computed as in training."""
    import torch

    config = trial.config
    size = 2
    sample = _observation(trial, size) | {
        "action": torch.rand(size, config.chunk_size, config.action_dim) * 2 - 1,
        "action_is_pad": torch.zeros(size, config.chunk_size, dtype=torch.bool),
        "task": [_TASK] * size,
    }
    trial.policy.train()
    autocast = torch.autocast(
        torch.device(config.device or "cpu").type,
        dtype=getattr(torch, config.dtype),
        enabled=config.dtype != "float32",  # in training, accelerate does this
    )

    def loss() -> float:
        with autocast:
            return trial.policy.forward(trial.preprocess(dict(sample)))[0].item()

    value, times = _twice(loss)
    if not math.isfinite(value):
        raise CheckFailedError(
            f"the loss of {size} made-up samples is {value}", "--policy.dtype=float32 --policy.backbone_dtype=float32"
        )
    return f"{size} made-up samples, loss {value:.3f}; {times}"


def check_select_action(trial: Trial) -> str:
    """Whether one made-up observation gives a finite action, through both pipelines, as on a robot."""
    observation = {key: value[0] for key, value in _observation(trial, 1).items()} | {"task": _TASK}

    def act() -> Any:
        trial.policy.reset()  # so that the second call predicts again
        return trial.postprocess(trial.policy.select_action(trial.preprocess(dict(observation))))

    action, times = _twice(act)
    if tuple(action.shape) != (1, trial.config.action_dim) or not action.isfinite().all():
        raise CheckFailedError(
            f"the action is {action.tolist()}; {trial.config.action_dim} finite numbers were expected",
            "--policy.dtype=float32 --policy.backbone_dtype=float32",
        )
    return f"{trial.config.action_dim} numbers; {times}; peak memory so far {_peak_memory(trial.config)}"


def _observation(trial: Trial, size: int) -> dict[str, Any]:
    import torch

    return {key: torch.rand(size, *feature.shape) for key, feature in (trial.config.input_features or {}).items()}


def _twice(call: Callable[[], Any]) -> tuple[Any, str]:
    """The second result, and the time of both calls: the first one includes what happens only once."""
    started = time.perf_counter()
    call()
    between = time.perf_counter()
    result = call()
    return result, f"first call {between - started:.2f} s, second {time.perf_counter() - between:.2f} s"


def _peak_memory(config: AtlasVLAConfig) -> str:
    import resource

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    process = gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if torch.device(config.device or "cpu").type != "cuda":
        return process
    return f"{gib(torch.cuda.max_memory_allocated())} on the GPU, {process} in the process"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
