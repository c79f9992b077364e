"""The demo's stages and what it leaves behind, without running it."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.common.errors import EvalError
from eval.common.files import only_writer
from eval.common.lerobot_results import read_eval_info
from eval.demo import command as demo
from eval.demo import report as demo_report
from eval.demo.command import DemoConfig, as_typed, stages
from eval.demo.contact_sheet import filmed_rollouts, read_frames
from eval.demo.progress import StageProgress
from eval.demo.report import next_steps
from eval.report.reliance_results import RELIANCE_FILE
from eval.rollout.workers.videos import write_video
from lerobot_atlasvla.inspection.reliance import IMAGES
from lerobot_atlasvla.libero.patches.frustum_culling import ENV_CULL
from lerobot_atlasvla.libero.patches.render_quality import ENV_RENDER_QUALITY
from tests.eval.run_folders import make_run, rollouts_of
from tests.helpers.forked import Forked, hold

CHANGE = {"mean": 0.5, "low": 0.4, "high": 0.6, "episodes": [0.5, 0.5]}


def flags(stage: demo.Stage) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in stage.command if word.startswith("--"))


def test_the_blind_control_has_the_same_demonstrations_steps_and_rollouts(tmp_path):
    found = stages(DemoConfig(output_dir=tmp_path, steps=70, rollouts=7, displace_cm=6, seed=3))
    assert list(found) == ["collect", "train", "eval", "reliance", "blind_train", "blind_eval"]
    seeing, blind = flags(found["train"]), flags(found["blind_train"])
    assert blind.pop("policy.views") == "none"
    assert blind.pop("num_workers") == "2"
    assert seeing.pop("output_dir") != blind.pop("output_dir")
    assert seeing == blind
    rollouts, control = flags(found["eval"]), flags(found["blind_eval"])
    assert rollouts["eval.n_episodes"] == control["episodes"] == "7"
    assert control["seeds"] == "[3]"
    assert rollouts["seed"] == "3"
    assert flags(found["collect"])["displace_cm"] == control["displace_cm"] == "6"
    assert found["eval"].environment == {"ATLASVLA_LIBERO_DISPLACE_CM": "6"}


def test_the_blind_control_can_be_left_out(tmp_path):
    assert list(stages(DemoConfig(output_dir=tmp_path, blind_control=False))) == [
        "collect",
        "train",
        "eval",
        "reliance",
    ]


def test_a_stage_is_shown_as_it_would_be_typed():
    command = ["/opt/env/bin/lerobot-eval", "--env.task_ids=[0]"]
    stage = demo.Stage("", command, environment={"ATLASVLA_LIBERO_DISPLACE_CM": "8"})
    assert as_typed(stage) == "ATLASVLA_LIBERO_DISPLACE_CM=8 lerobot-eval '--env.task_ids=[0]'"


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--displace_cm=-1", "0 (off) to"),
        ("--render_quality=pretty", "default, fast, plain"),
        ("--suite=libero_90", "libero_spatial"),
        ("--task_id=10", "0 .. 9"),
        ("--recovery_share=1.5", "0 .. 1"),
        ("--rollouts=51", "0 .. 50"),
        ("--rollouts=0", "at least 1"),
        ("--episodes=1", "at least 2"),
        ("--steps=0", "at least 1"),
        ("--seed=-1", "0 .. "),
    ],
)
def test_a_setting_that_cannot_work_ends_it_before_anything_is_written(flag, allowed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "prepare_libero", lambda: pytest.fail("must be refused before"))
    assert demo.main([f"--output_dir={tmp_path / 'out'}", flag]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"eval.demo: {flag}")
    assert allowed in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUJOCO_GL": "vulkan"}, "eval.demo: MUJOCO_GL='vulkan', but LIBERO renders with one of egl, osmesa, glx"),
        ({"MUJOCO_GL": "glx", "DISPLAY": ""}, "eval.demo: MUJOCO_GL='glx' cannot work: "),
        ({"ATLASVLA_LIBERO_ASSETS": "/nowhere"}, "eval.demo: ATLASVLA_LIBERO_ASSETS="),
    ],
)
def test_a_simulator_that_cannot_work_ends_it_with_one_sentence(variables, message, tmp_path, monkeypatch, capsys):
    for name in (ENV_RENDER_QUALITY, ENV_CULL):  # which the demo sets for its stages
        monkeypatch.setenv(name, "")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert demo.main([f"--output_dir={tmp_path / 'out'}"]) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith(message)
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_without_the_simulator_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libero" else real(name))
    assert demo.main([f"--output_dir={tmp_path / 'out'}"]) == 1
    assert "Run `pip install 'lerobot_policy_atlasvla[libero]'`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stage_is_told_in_a_paragraph_and_its_noise_goes_to_the_log(tmp_path, capfd):
    noisy = "import sys; sys.stderr.write('deprecated!'); print('Training: 100%|x| 40/40 [00:09<00:00]')"
    log = tmp_path / "train.log"
    stage = demo.Stage("the policy learns.", [sys.executable, "-c", noisy], "Training")
    assert demo.run_stage("train", stage, "2/6", log) > 0
    shown = capfd.readouterr()
    assert shown.out.startswith(f"\n[2/6] train: the policy learns.\n      log: {log}\n      done in ")
    assert "deprecated" not in shown.out + shown.err
    assert "deprecated" in log.read_text()


def test_a_stage_that_fails_shows_the_end_of_its_log(tmp_path):
    lines = "print('loading', flush=True); raise SystemExit('no such folder: x')"
    with pytest.raises(EvalError, match=r"train failed with exit status 1; .*\nloading\nno such folder: x"):
        demo.run_stage("train", demo.Stage("", [sys.executable, "-c", lines]), "1/1", tmp_path / "train.log")


def test_a_demo_that_runs_is_neither_moved_nor_joined(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "prepare_libero", lambda: None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/collect.log").touch()
    with Forked(hold, tmp_path / "out") as first:
        assert first.told() == "held"
        assert demo.main([f"--output_dir={tmp_path / 'out'}"]) == 1
    assert f"Another process is writing to --output_dir={tmp_path / 'out'}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_what_a_demo_left_is_moved_away(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "prepare_libero", lambda: None)
    monkeypatch.setattr(demo, "stages", lambda cfg: {})
    monkeypatch.setattr(demo, "write_report", lambda out, **_: ["done"])
    out = tmp_path / "outputs"
    (out / "other_run").mkdir(parents=True)
    assert demo.main([f"--output_dir={out}"]) == 1
    assert f"--output_dir={out} holds something that is no demo (other_run); choose" in capsys.readouterr().err
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["outputs", "outputs/other_run"]
    (out / "collect.log").touch()
    assert demo.main([f"--output_dir={out}"]) == 0
    (kept,) = tmp_path.glob("outputs-*")
    assert sorted(path.name for path in kept.iterdir()) == ["collect.log", "other_run"]
    assert f"demo: an earlier run was moved to {kept}\n" in capsys.readouterr().out


def test_a_demo_begins_with_the_log_that_its_folder_is_known_by(tmp_path):
    assert f"{next(iter(stages(DemoConfig(output_dir=tmp_path))))}.log" == demo.FIRST_LOG


def test_the_stage_of_a_killed_demo_keeps_others_out_of_its_folder(tmp_path):
    """It goes on writing there."""

    def run_stage(tell) -> None:
        with only_writer(tmp_path / "out") as lock:
            wait = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
            stage = demo.Stage("", [sys.executable, "-c", wait])
            demo.run_stage("train", stage, "1/1", tmp_path / "out/train.log", lock)

    log = tmp_path / "out/train.log"
    with Forked(run_stage):
        while not log.exists() or not log.read_text().strip():
            time.sleep(0.01)
    stage = int(log.read_text())
    with pytest.raises(EvalError, match="Another process is writing"), only_writer(tmp_path / "out"):
        pass
    os.kill(stage, signal.SIGKILL)
    while os.path.exists(f"/proc/{stage}/fd/0"):
        time.sleep(0.01)
    with only_writer(tmp_path / "out"):
        pass


def test_progress_follows_one_bar_of_the_output_however_it_is_cut_up():
    output = b"Generating: 9%|#| 1/9 [0]\rTraining:  10%|#  | 4/40 [00:01<00:09]\rTraining:  20%|## | 8/40 [00:02]\nbye"
    progress = StageProgress("train", "Training")
    for index in range(len(output)):
        progress(output[index : index + 1])
    assert (progress.done, progress.total) == (8, 40)
    progress.close()


def make_folder(out: Path, assets: str = "official") -> Path:
    """What the stages of a demo leave, as far as the report reads it."""
    task = {"instruction": "do it", "kept": 4, "attempts": 5, "recovery_kept": 1, "mean_displacement_cm": 6.0}
    contents = {
        "data/meta/atlasvla_collect.json": {
            "assets": assets,
            "settings": {"displace_cm": 8.0, "image_size": 64},
            "tasks": {"0": task},
        },
        "eval/eval_info.json": {
            "per_task": [{"task_group": "libero_spatial", "task_id": 0, "metrics": {"successes": [True, True, False]}}]
        },
        "train/checkpoints/last/pretrained_model/train_config.json": {
            "log_freq": 20,
            "seed": 5,
            "policy": {"image_size": [48, 48], "n_action_steps": 10},
        },
        f"reliance/{RELIANCE_FILE}": {
            "schema_version": 1,
            "kind": "reliance",
            "n_action_steps": 10,
            "checkpoint": {"weights_sha256": "0" * 64},
            "dataset": "data",
            "episodes": [3],
            "episodes_are": "held out",
            "frames_per_episode": 8,
            "parts": [{"name": IMAGES, "action_change": CHANGE, "loss_rise": None, "reason": None}],
        },
    }
    for name, content in contents.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(content))
    (out / "train.log").write_text("INFO step:20 smpl:1K loss:0.500 grdn:1\nINFO step:40 smpl:2K loss:0.250 grdn:1\n")
    return out


@pytest.fixture
def simulator(monkeypatch):
    monkeypatch.setattr(demo_report, "prepare_libero", lambda: SimpleNamespace(kind="official"))
    monkeypatch.setattr(demo_report, "describe_simulator", lambda: {"mujoco": "3.3.2", "assets_path": "/secret"})


def report(out: Path, *, blind: bool) -> list[str]:
    names = ["collect", "train", "eval", "reliance", *(["blind_train", "blind_eval"] if blind else [])]
    commands = {name: f"run {name}" for name in names}
    return demo_report.write_report(out, commands=commands, seconds=dict.fromkeys(names, 1.0), wall_s=61.0)


def test_the_last_two_lines_are_the_control_and_the_success(tmp_path, simulator):
    out = make_folder(tmp_path)
    make_run(out / "blind_eval", rollouts_of(0, [50, 0, 0]))
    assert report(out, blind=True) == [
        "demo: blind 1/3 = 33.3 % [6.1, 79.2], image reliance 0.500 [0.400, 0.600]",
        "demo: success 2/3 = 66.7 % [20.8, 93.9], wall 61 s, assets official",
    ]
    text = (out / "report.md").read_text()
    assert "displaced by 6.0 cm on average" in text
    assert "/secret" not in text
    assert (out / "report.png").stat().st_size > 1000


def test_a_control_that_was_left_out_is_not_passed_over(tmp_path, simulator):
    line, _ = report(make_folder(tmp_path), blind=False)
    assert line.startswith("demo: blind not run (--blind_control=false), image reliance 0.50")


def test_demonstrations_of_another_scene_make_no_result(tmp_path, simulator):
    with pytest.raises(EvalError, match="stand-in"):
        report(make_folder(tmp_path, assets="stand-in"), blind=False)


def test_frames_of_filmed_failures_and_successes_are_on_the_page(tmp_path, simulator):
    out = make_folder(tmp_path)
    videos = [out / f"eval/videos/eval_episode_{number}.mp4" for number in range(3)]
    for video in videos[1:]:
        frames = [np.full((32, 32, 3), 20 * step, np.uint8) for step in range(12)]
        write_video(video, frames)
    file = out / "eval/eval_info.json"
    content = json.loads(file.read_text())
    content["per_task"][0]["metrics"]["video_paths"] = [str(video) for video in videos]
    file.write_text(json.dumps(content))
    assert filmed_rollouts(read_eval_info(file)) == [
        ("libero_spatial 0, rollout 2", False, videos[2]),
        ("libero_spatial 0, rollout 1", True, videos[1]),
    ]
    report(out, blind=False)
    text = (out / "report.md").read_text()
    assert "![frames of rollouts](rollouts.png)" in text
    assert "- [eval/videos/eval_episode_2.mp4](eval/videos/eval_episode_2.mp4)" in text
    assert (out / "rollouts.png").stat().st_size > 1000
    first, *_, last = read_frames(videos[2], 3)
    assert first.max() < 30
    assert last.min() > 200


def test_what_to_look_at_next_depends_on_the_figures(tmp_path):
    settings = {"suite": "libero_spatial", "task_id": 0, "displace_cm": 6.0}
    falling, level = ([(step, loss) for step, loss in enumerate(losses, 1)] for losses in ([5, 4, 3, 2, 1], [1] * 5))
    doubtful = "\n".join(next_steps(tmp_path, settings, (5, 20), (4, 20), falling))
    assert "nothing here shows yet that the policy looks" in doubtful
    assert '`make demo ARGS="--steps=10"`' in doubtful
    assert "The failures" in doubtful
    clear = "\n".join(next_steps(tmp_path, settings, (20, 20), (2, 20), level))
    assert "intervals of the seeing" not in clear
    assert "still falling" not in clear
    assert "The failures" not in clear
    assert f"--checkpoint={tmp_path / 'train/checkpoints/last'}" in clear
