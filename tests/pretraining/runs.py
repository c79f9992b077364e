"""Runs of atlasvla-pretrain that take a second."""

import pytest

from lerobot_atlasvla.pretraining.settings import PretrainConfig, PretrainError
from lerobot_atlasvla.pretraining.trainer import pretrain

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_dim": 8, "batch_size": 2, "descriptor_dim": 4}
SMALL |= {"steps": 5, "eval_every": 2, "held_out": 0.4, "lr": 3e-3}


def settings(root, folder, **changes) -> PretrainConfig:
    return PretrainConfig(dataset_root=root, output_dir=folder, **(SMALL | changes))


def refused(root, folder, **changes) -> str:
    with pytest.raises(PretrainError) as caught:
        pretrain(settings(root, folder, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
