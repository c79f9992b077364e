"""Shared fixtures: LIBERO's tasks, and environments that render nothing."""

from contextlib import ExitStack

import pytest

from eval.rollout.experts import without_cameras
from lerobot_atlasvla.libero import asset_digests, assets, setup
from tests.libero.asset_folders import write_manifest


@pytest.fixture(scope="module")
def suite():
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from libero.libero import benchmark

    return benchmark.get_benchmark_dict()["libero_spatial"]()


@pytest.fixture
def make_env(suite):
    """Environments without cameras, closed after the test."""
    with ExitStack() as envs:
        yield lambda task_id: envs.enter_context(without_cameras(suite.get_task(task_id)))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has looked nothing up, with its own home, cache, (empty) LIBERO package and small asset tree."""
    monkeypatch.setattr(assets, "_resolved", None)
    for name in (assets.ENV_ASSETS, assets._ENV_RESOLVED):
        # Set, then deleted: the undo then also removes what the code under test puts there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATLASVLA_CACHE", str(tmp_path / "cache"))
    for module in (assets, setup):
        monkeypatch.setattr(module, "libero_package", lambda: tmp_path / "package" / "libero")
    # The asset packages of this machine, if it has them, are not those of the test.
    monkeypatch.setattr(assets, "_NAMESPACE", "atlasvla_test_assets")
    monkeypatch.setattr(asset_digests, "MANIFEST", write_manifest(tmp_path / "manifest.sha256"))
    return tmp_path
