"""A Hub of the tests' own, with an empty cache."""

import pytest

from tests.helpers.hub_server import HubServer


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, cache):
    with HubServer() as server:
        server.use(monkeypatch, cache)
        yield server
