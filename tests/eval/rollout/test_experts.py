"""The outcomes of the scripted expert: each placement counts once, and a stopped run is continued. No simulator."""

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.rollout import experts

TASK = "pick up the bowl"
FLAGS = ["--suite=libero_spatial", "--task_ids=[0]", "--placements=3"]


def line(seed: int, steps: int | None = 90, **changes: str) -> str:
    row = {"suite": "libero_spatial", "task_id": 0, "task": TASK, "noise": 0.0, "assets": "stand-in", "seed": seed}
    return json.dumps(row | {"steps": steps} | changes)


def render(camera_name: str, width: int, height: int) -> np.ndarray:
    """What OpenGL delivers: rows from the bottom, each as bright as it is high."""
    return np.repeat(np.arange(height, dtype=np.uint8)[:, None, None], width, axis=1).repeat(3, axis=2)


@pytest.fixture
def solved(monkeypatch) -> list[int]:
    """Every placement but the one of seed 3 is solved; returns the seeds of those that were tried so far."""
    seeds: list[int] = []

    def solve(env, expert, seed, noise, max_steps):
        seeds.append(seed)
        return None if seed == 3 else 100 + seed

    def without_cameras(task, renderer):
        return nullcontext(SimpleNamespace(sim=SimpleNamespace(render=render)))

    task = SimpleNamespace(name=TASK)
    suites = SimpleNamespace(get_benchmark_dict=lambda: {"libero_spatial": lambda: suite})
    suite = SimpleNamespace(get_task=lambda task_id: task)
    monkeypatch.setitem(sys.modules, "libero.libero", SimpleNamespace(benchmark=suites))
    monkeypatch.setattr("lerobot_atlasvla.libero.setup.prepare_libero", lambda: None)
    monkeypatch.setattr("lerobot_atlasvla.libero.setup.describe_simulator", lambda: {"assets": "stand-in"})
    monkeypatch.setattr(experts, "without_cameras", without_cameras)
    monkeypatch.setattr(experts, "ScriptedExpert", lambda env, name: SimpleNamespace(grasps=1, phase="done"))
    monkeypatch.setattr(experts, "solve", solve)
    return seeds


def test_a_file_that_two_processes_wrote_and_one_left_in_a_line_is_continued(tmp_path, solved, capsys):
    file = tmp_path / "experts.jsonl"
    file.write_text(f"{line(0)}\n{line(1, None)}\n{line(0)}\n{line(1, None)}\n{line(2)[:30]}")
    assert experts.main([*FLAGS, f"--output={file}"]) == 0
    assert solved == [2]
    assert f"| 0 {TASK} | 2/3 | 21-94 | 96, 102 | 1 |" in capsys.readouterr().out
    assert [json.loads(text)["seed"] for text in file.read_text().splitlines()] == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("content", ["precious", f"{line(0)}\nprecious", "precious\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path, solved, capsys, content):
    file = tmp_path / "thesis.tex"
    file.write_text(content)
    assert experts.main([*FLAGS, f"--output={file}"]) == 1
    assert f"--output={file} is not what this command writes" in capsys.readouterr().err
    assert (file.read_text(), solved) == (content, [])


def test_pictures_show_the_end_of_failures_alone_and_upright(tmp_path, solved):
    flags = [f"--output={tmp_path / 'experts.jsonl'}", f"--pictures={tmp_path / 'failed'}"]
    assert experts.main([*FLAGS[:2], "--placements=5", *flags]) == 0
    assert solved == [0, 1, 2, 3, 4]
    (picture,) = (tmp_path / "failed").iterdir()
    assert picture.name == "libero_spatial_0_seed3.png"
    with Image.open(picture) as image:
        brightness = [image.getpixel((100, row))[0] for row in (0, 200, 255)]
    assert brightness == [255, 55, 0]


@pytest.mark.parametrize("assets", ["official (verified)", None])
def test_outcomes_on_other_assets_are_not_continued(tmp_path, solved, capsys, assets):
    file = tmp_path / "experts.jsonl"
    file.write_text(line(0, assets=assets) + "\n")
    assert experts.main([*FLAGS, f"--output={file}"]) == 1
    assert f"has outcomes on {assets or 'unknown'} assets, and LIBERO's are now stand-in" in capsys.readouterr().err
    assert solved == []


@pytest.mark.parametrize("task_ids", ["[]", "[0, 0]"])
def test_tasks_are_named_once(tmp_path, solved, capsys, task_ids):
    assert experts.main([f"--task_ids={task_ids}", f"--output={tmp_path / 'experts.jsonl'}"]) == 1
    assert "must name at least one task, and none of them twice" in capsys.readouterr().err
    assert solved == []
