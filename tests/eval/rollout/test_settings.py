"""eval.run's flags, and what is refused before a checkpoint is read."""

from pathlib import Path

import pytest

from eval.rollout import checks as run_checks
from eval.rollout.run import main
from eval.rollout.settings import RunConfig, RunError


def test_more_episodes_than_fixed_states_from_random_placements():
    RunConfig(checkpoint=Path("a"), output_dir=Path("b"), look="fast", episodes=51, init_states=False).validate()


def test_unreadable_flags_are_named_without_a_traceback(capsys):
    assert main(["--checkpoint=a", "--output_dir=b", "--episodes=many"]) == 2
    assert "`episodes`" in capsys.readouterr().err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Results do not depend on it" in text
    for name in RunConfig.__dataclass_fields__:
        assert f"--{name} " in text


def test_tasks_are_checked_against_libero(monkeypatch):
    from lerobot_atlasvla.sim import assets, setup

    stand_in = assets.LiberoAssets(path=None, kind="stand-in", source="")
    monkeypatch.setattr(setup, "prepare_libero", lambda: stand_in)
    pytest.importorskip("libero.libero.benchmark")
    tasks = run_checks.libero_tasks(["libero_spatial"], None)
    assert [task.task_id for task in tasks] == list(range(10))
    assert tasks[4].instruction.startswith("pick up the black bowl in the top drawer")
    with pytest.raises(RunError, match=r"'libero_moon', which LIBERO does not know; allowed: .*libero_spatial"):
        run_checks.libero_tasks(["libero_moon"], None)
    with pytest.raises(RunError, match="--task_ids names 10; libero_spatial has the tasks 0 to 9"):
        run_checks.libero_tasks(["libero_spatial"], [0, 10])
    with pytest.raises(RunError, match="libero_goal, but the built-in stand-in scene covers libero_spatial only"):
        run_checks.libero_tasks(["libero_goal"], None)
