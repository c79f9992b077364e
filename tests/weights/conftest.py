"""A Hub of the tests' own, with an empty cache."""

import pytest

from lerobot_atlasvla.weights import backbones
from tests.helpers.hub.server import HubServer
from tests.helpers.released import SMALL_DINOV2, write_all


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, cache):
    with HubServer() as server:
        server.use(monkeypatch, cache)
        yield server


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Released weights of every part, small."""
    monkeypatch.setattr(backbones, "DINOV2_BASE", SMALL_DINOV2)
    return write_all(tmp_path / "released")


@pytest.fixture
def folder(tmp_path):
    """Where a checkpoint is saved."""
    return tmp_path / "saved"
