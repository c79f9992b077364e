"""What the feature cache's tests share: data, weights, and a cache of them; for reading only."""

import pytest

from lerobot_atlasvla.commands.cache_features import build
from tests.training.feature_cache.helpers import settings


@pytest.fixture(scope="session")
def data(dataset_root):
    return dataset_root


@pytest.fixture(scope="session")
def released(root):
    return root


@pytest.fixture(scope="session")
def cache(data, released, tmp_path_factory):
    return build(settings(data, released, tmp_path_factory.mktemp("cache") / "features"))
