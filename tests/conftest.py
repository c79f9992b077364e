"""Shared fixtures: a tiny configuration, a batch, weights and data made once, an environment without the Hub."""

import logging
import os

# Before any test imports huggingface_hub or transformers: no test may depend on the Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Before PyTorch is imported, and for the processes that tests start: one thread each. Tests run side by side, threads
# that wait for each other are slow on a busy machine, and results must not depend on the number of cores.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import psutil
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig
from tests.helpers.quick_parsing import remember_docstrings

remember_docstrings()
torch.set_num_threads(1)

# pytest keeps a test's log records, debug ones included once something sets the root logger to that level; gRPC's hold
# objects of its own that crash the process when they outlive their event loop.
logging.getLogger("grpc").setLevel(logging.INFO)

_ROOT_LEVEL = logging.getLogger().level

#: Memory of one pytest worker with LIBERO, and the command server and simulations it starts, GiB.
WORKER_GIB = 3

IMAGE = "observation.images.image"
WRIST = "observation.images.wrist_image"
STATE = "observation.state"
PIXELS = 32
STATE_DIM = 8
ACTION_DIM = 7
CHUNK = 10
TASK = "pick up the black bowl next to the plate and place it on the plate"


def tiny_config(**overrides) -> AtlasVLAConfig:
    """The shape of atlasvla_tiny, smaller still."""
    values = {
        "device": "cpu",
        "push_to_hub": False,
        "image_size": (PIXELS, PIXELS),
        "vggt_init": "random",
        "vggt_patch_embed": "conv_stem",
        "vggt_patch_size": 8,
        "vggt_embed_dim": 32,
        "vggt_depth": 2,
        "vggt_num_heads": 2,
        "vggt_layer_scale_init": 1.0,
        "vggt_output_layers": (0, 1),
        "da3_init": "random",
        "da3_embed_dim": 32,
        "da3_depth": 6,
        "da3_num_heads": 2,
        "da3_output_layers": (4, 5),
        "language_init": "random",
        "language_hidden_size": 16,
        "language_num_layers": 1,
        "language_num_heads": 2,
        "tokenizer_max_length": 128,
        "decoder_hidden_size": 32,
        "decoder_num_layers": 1,
        "decoder_num_heads": 2,
        "condition_hidden_size": 32,
        "summary_keypoints": 4,
        "summary_map_channels": 4,
        "input_features": {
            IMAGE: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)),
            WRIST: PolicyFeature(FeatureType.VISUAL, (3, PIXELS, PIXELS)),
            STATE: PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
    }
    return AtlasVLAConfig(**(values | overrides))


def raw_batch(size: int = 3, seed: int = 0) -> dict:
    """What a LeRobot data loader hands to the preprocessor."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    return {
        IMAGE: uniform(size, 3, PIXELS, PIXELS),
        WRIST: uniform(size, 3, PIXELS, PIXELS),
        STATE: uniform(size, STATE_DIM),
        "action": uniform(size, CHUNK, ACTION_DIM) * 2 - 1,
        "action_is_pad": torch.zeros(size, CHUNK, dtype=torch.bool),
        "task": [TASK] * size,
    }


def dataset_stats() -> dict:
    """Statistics that differ per dimension, so that a wrong axis shows."""
    return {
        STATE: {"mean": torch.arange(STATE_DIM) * 0.1, "std": torch.linspace(0.5, 2, STATE_DIM)},
        "action": {"mean": torch.arange(ACTION_DIM) * 0.01, "std": torch.linspace(0.2, 1, ACTION_DIM)},
    }


@pytest.fixture(autouse=True)
def _root_level_stays():
    """Undo what commands, and LeRobot's ``init_logging``, set for good in an earlier test or a module's fixture."""
    logging.getLogger().setLevel(_ROOT_LEVEL)


@pytest.fixture(autouse=True)
def _simulator_settings_stay():
    """Undo what commands that run in the test's process tell the simulators through the environment."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ATLASVLA_")}
    yield
    for name in [name for name in os.environ if name.startswith("ATLASVLA_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def policy():
    from lerobot_atlasvla import AtlasVLAPolicy

    torch.manual_seed(0)
    return AtlasVLAPolicy(tiny_config())


@pytest.fixture
def batch():
    from lerobot_atlasvla import make_atlasvla_pre_post_processors

    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    return preprocessor(raw_batch())


@pytest.fixture
def nothing_downloaded():
    """A process that has not looked at the Hub yet, and leaves none of its answers behind."""
    from lerobot_atlasvla.weights.download import forget

    forget()
    yield
    forget()


@pytest.fixture
def in_repository_root(monkeypatch):
    from tests.helpers import ROOT

    monkeypatch.chdir(ROOT)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Workers of ``pytest -n auto``: one per core, as far as the free memory goes."""
    memory = psutil.virtual_memory().available // (WORKER_GIB * 2**30)
    return max(1, min(len(os.sched_getaffinity(0)), memory))


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Tiny weights in the released formats (``vggt``, ``qwen3``, ``dinov2``), made once per run; for reading only."""
    from tests.helpers.released import write_all
    from tests.helpers.shared import made_once

    return made_once(tmp_path_factory, "released", write_all)


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory):
    """Two episodes of twelve frames with the published schema, made once per run; for reading only."""
    from tests.helpers.random_dataset import write_dataset
    from tests.helpers.shared import made_once

    return made_once(tmp_path_factory, "dataset", write_dataset)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny untrained policy as ``lerobot-train`` saves it, made once per run; for reading only."""
    from tests.helpers.released import save_checkpoint
    from tests.helpers.shared import made_once

    return made_once(tmp_path_factory, "checkpoint", save_checkpoint)
