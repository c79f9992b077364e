"""Shared fixtures: LIBERO's tasks, and environments that render nothing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lerobot_atlasvla.libero import asset_digests, assets, setup
from tests.libero.asset_folders import write_manifest


@pytest.fixture(scope="module")
def suite():
    from lerobot_atlasvla.libero.setup import prepare_libero

    prepare_libero()
    from libero.libero import benchmark

    return benchmark.get_benchmark_dict()["libero_spatial"]()


@contextmanager
def env_without_cameras(task) -> Iterator:
    """A task's environment; a step takes about 20 ms."""
    from libero.libero import get_libero_path
    from libero.libero.envs.env_wrapper import ControlEnv

    env = ControlEnv(
        os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file),
        use_camera_obs=False,
        has_offscreen_renderer=False,
        control_freq=20,
    )
    try:
        yield env
    finally:
        env.close()


@pytest.fixture
def make_env(suite):
    """Environments without cameras, closed after the test."""
    with ExitStack() as envs:
        yield lambda task_id: envs.enter_context(env_without_cameras(suite.get_task(task_id)))


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
