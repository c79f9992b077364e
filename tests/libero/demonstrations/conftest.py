"""Shared fixtures of the tests of ``atlasvla-collect``."""

import pytest

from lerobot_atlasvla.libero.demonstrations import collect as collect_module
from lerobot_atlasvla.libero.demonstrations import collector as collector_module
from tests.libero.demonstrations.fake_simulator import SOURCE, FakePool, fake_attempt


@pytest.fixture
def fake_simulator(monkeypatch):
    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(collect_module, "run_job", fake_attempt)
    monkeypatch.setattr(collector_module, "describe_source", lambda: SOURCE)


@pytest.fixture
def no_simulator(monkeypatch):
    def started(*args, **kwargs):
        pytest.fail("a worker process was started")

    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", started)
