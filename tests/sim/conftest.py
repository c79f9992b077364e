"""Shared fixtures: LIBERO's tasks, and environments that render nothing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest


@pytest.fixture(scope="module")
def suite():
    from lerobot_atlasvla.sim.setup import prepare_libero

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
