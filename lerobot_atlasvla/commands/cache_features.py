"""``atlasvla-cache``: run frozen VGGT or DA3 once over a dataset, so that training need not run it again.

It takes the flags of the ``lerobot-train`` command that is to use the cache, ``--policy.feature_cache=FOLDER`` among
them. A killed run is continued by running it again.
"""

import copy
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from lerobot.configs import parser
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy
from lerobot.utils.collate import lerobot_collate_fn
from lerobot.utils.utils import init_logging
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.inputs import INDEX, prepare_views
from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.checks.types import ConfigError
from lerobot_atlasvla.training.feature_cache.files import CacheWriter, done_before, row_bytes
from lerobot_atlasvla.training.feature_cache.key import FLAG, CacheKey, FeatureCacheError, augmentation
from lerobot_atlasvla.training.feature_cache.reader import cache_key, sample_pixels
from lerobot_atlasvla.utils.cli import AGAIN, exit_status
from lerobot_atlasvla.utils.errors import brief
from lerobot_atlasvla.utils.paths import existing_part, pattern_in, why_not
from lerobot_atlasvla.utils.setting_checks import check_at_least

logger = logging.getLogger(__name__)

GIGABYTE = 1e9


def build(cfg: TrainPipelineConfig) -> Path:
    """Write the features of all frames of the dataset (or of ``dataset.episodes``) that are not there yet.

    Args:
        cfg: The settings of the training run.

    Returns:
        The folder of the cache.

    Raises:
        FeatureCacheError: If settings, data and weights don't go together or have no use for a cache, the folder holds
            something else, the dataset can't be read, or the disk is or becomes full.
    """
    if cfg.dataset.root:
        cfg.dataset.root = str(Path(cfg.dataset.root).expanduser())
    if cfg.dataset.root and (problem := pattern_in(cfg.dataset.root, "--dataset.root")):
        raise FeatureCacheError(problem)
    cfg.output_dir = None  # Nothing is written there; LeRobot would refuse one that exists.
    try:
        cfg.validate()
        config, folder = _check(cfg)
        dataset = _open(cfg)
        policy = _make_policy(cfg, config, dataset)
    # What LeRobot, the policy and its weights say of settings and data that don't go together.
    except (ValueError, ConfigError, OSError) as error:
        raise FeatureCacheError(" ".join(str(error).split())) from error
    device = next(policy.model.backbones()[policy.config.geometry_backbone].parameters()).device
    key = cache_key(policy, dataset.meta)
    _log_size(folder, key, len(dataset))
    # With dataset.episodes, a frame's place in the dataset is not its index.
    indices = dataset.hf_dataset.data.column("index").to_numpy()
    try:
        places = np.flatnonzero(~done_before(folder, key)[indices].astype(bool))
        _check_disk(folder, key, len(places))
    except OSError as error:
        raise FeatureCacheError(f"{why_not(error, folder, FLAG)}.") from error
    with open_writer(folder, key) as writer:
        start = time.perf_counter()
        batches = _batches(cfg, dataset, places, folder)
        for batch in tqdm(batches, total=-(-len(places) // cfg.batch_size), unit="batch"):
            try:
                _add(writer, policy, _views(batch, cfg.rename_map, device))
            except OSError as error:
                raise FeatureCacheError(f"{why_not(error, folder, FLAG)}. {_go_on(folder)}") from error
        seconds = time.perf_counter() - start
    if len(places):
        logger.info("%d frames in %.0f s, %.1f a second.", len(places), seconds, len(places) / seconds)
    logger.info("The cache is ready: lerobot-train %s", shlex.quote(f"{FLAG}={folder}"))
    return folder


def open_writer(folder: Path, key: CacheKey) -> CacheWriter:
    """Open a cache for writing.

    Raises:
        FeatureCacheError: If the folder can't be written, holds something else, or is being written to.
    """
    try:
        return CacheWriter(folder, key)
    except OSError as error:
        raise FeatureCacheError(f"{why_not(error, folder, FLAG)}.") from error


def _go_on(folder: Path) -> str:
    return f"The frames that {folder} has by now count: run the same command again to go on."


def _check(cfg: TrainPipelineConfig) -> tuple[AtlasVLAConfig, Path]:
    check_at_least(FeatureCacheError, cfg, batch_size=1, num_workers=0)
    config = cfg.policy
    if not isinstance(config, AtlasVLAConfig):
        kind = config.type if config else None
        raise FeatureCacheError(f"Only --policy.type=atlasvla has a feature cache, got {kind!r}.")
    if config.use_peft or (cfg.peft is not None and not cfg.peft.target_modules):
        raise FeatureCacheError(
            "Adapters go into the geometry backbone unless --peft.target_modules names other modules, and then its "
            f"features change from step to step. Name them, or train without a cache (leave out {FLAG})."
        )
    if not config.feature_cache:
        raise FeatureCacheError(f"Name the folder of the cache: {FLAG}=FOLDER.")
    if cfg.dataset.image_transforms.enable or cfg.dataset.streaming:
        raise FeatureCacheError(
            "A feature cache needs a dataset on disk and images as they are stored there; leave out "
            "--dataset.streaming and --dataset.image_transforms.enable, and augment with --policy.random_shift, "
            "--policy.random_crop and --policy.color_jitter."
        )
    return config, Path(config.feature_cache).expanduser()


def _open(cfg: TrainPipelineConfig) -> LeRobotDataset:
    try:
        return LeRobotDataset(
            cfg.dataset.repo_id,
            root=cfg.dataset.root,
            episodes=cfg.dataset.episodes,
            revision=cfg.dataset.revision,
            video_backend=cfg.dataset.video_backend,
            tolerance_s=cfg.tolerance_s,
        )
    except Exception as error:  # a damaged one, and the Hub, fail in many ways
        raise FeatureCacheError(f"{_unreadable(cfg, error)}.") from error


def _unreadable(cfg: TrainPipelineConfig, error: Exception) -> str:
    """Say in one sentence, without its full stop, why the dataset can't be read."""
    where = f", --dataset.root={cfg.dataset.root}," if cfg.dataset.root else ""
    why = brief(error)
    if "Original Traceback" in str(error):  # a DataLoader's worker: the error itself comes after it
        why = str(error).strip().splitlines()[-1][:500]
    return f"--dataset.repo_id={cfg.dataset.repo_id}{where} can't be read: {why}"


def _make_policy(cfg: TrainPipelineConfig, config: AtlasVLAConfig, dataset: LeRobotDataset) -> AtlasVLAPolicy:
    """Make the policy as training starts with it, without the cache that is yet to be built."""
    if cfg.seed is not None:
        set_seed(cfg.seed)
    without_cache = copy.copy(config)
    without_cache.feature_cache = None
    policy: Any = make_policy(without_cache, ds_meta=dataset.meta, rename_map=cfg.rename_map)
    return policy.eval()


def _log_size(folder: Path, key: CacheKey, frames: int) -> None:
    logger.info(
        "Feature cache in %s: %d frames x %d copies x %.2f MB = %.2f GB.",
        folder,
        frames,
        key.copies,
        key.copy_bytes / 1e6,
        frames * row_bytes(key) / GIGABYTE,
    )


def _check_disk(folder: Path, key: CacheKey, frames: int) -> None:
    needed = frames * row_bytes(key)
    free = shutil.disk_usage(existing_part(folder)).free
    if needed > free:
        raise FeatureCacheError(
            f"{frames} frames need {needed / GIGABYTE:.2f} GB, and {folder} has {free / GIGABYTE:.2f} GB left. Choose "
            f"another disk ({FLAG}), or cache less: fewer copies (--policy.feature_cache_copies), fewer layers "
            "(--policy.vggt_output_layers, --policy.da3_output_layers), smaller images (--policy.image_size), some of "
            "the episodes (--dataset.episodes; training encodes the frames of the others)."
        )


def _batches(
    cfg: TrainPipelineConfig, dataset: LeRobotDataset, places: np.ndarray, folder: Path
) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        Subset(dataset, places.tolist()),
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
        # As LeRobot's training does.
        collate_fn=lerobot_collate_fn if dataset.meta.has_language_columns else None,
        # As in LeRobot: video decoders do not survive a fork.
        multiprocessing_context=cfg.dataloader_multiprocessing_context if cfg.num_workers else None,
    )
    try:
        yield from loader
    except Exception as error:  # images, videos and workers fail in many ways; what becomes of a batch is not seen here
        raise FeatureCacheError(f"{_unreadable(cfg, error)}. {_go_on(folder)}") from error


def _views(batch: dict[str, Any], rename: dict[str, str], device: torch.device) -> dict[str, Tensor]:
    """Move images and frame indices to the policy's device, under the policy's names."""
    return {
        rename.get(name, name): value.to(device)
        for name, value in batch.items()
        if isinstance(value, Tensor) and (name.startswith("observation.") or name == INDEX)
    }


@torch.no_grad()
def _add(writer: CacheWriter, policy: AtlasVLAPolicy, batch: dict[str, Tensor]) -> None:
    config = policy.config
    augmented = bool(augmentation(config))
    views = prepare_views(config, batch, training=augmented)
    copies = [policy.model.encode_views(views) for _ in range(config.feature_cache_copies)]
    pixels = sample_pixels(views).flatten(1).cpu()
    writer.write(batch[INDEX].flatten().cpu().numpy(), copies, pixels)


@parser.wrap()
def _from_command_line(cfg: TrainPipelineConfig) -> None:
    build(cfg)


def main() -> int:
    """Run the command; exit status 0 when the cache is ready, 1 when it can't be built, 130 when interrupted."""
    init_logging()
    # The wrapper reads the command line.
    work: Any = _from_command_line
    return exit_status("atlasvla-cache", work, errors=(FeatureCacheError, OSError), again=AGAIN)


if __name__ == "__main__":
    sys.exit(main())
