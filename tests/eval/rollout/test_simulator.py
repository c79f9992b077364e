"""What the simulator of a run is told, which assets and views it accepts, and which tasks it has."""

import json
import os
from dataclasses import asdict

import pytest

from eval.common.errors import EvalError
from eval.rollout import run, simulator
from eval.rollout.run import main
from eval.rollout.run_folder import read_run
from eval.rollout.workers import worker_pool
from eval.rollout.workers.worker import FinishedRollout, RolloutJob
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from tests.conftest import IMAGE, WRIST, tiny_config
from tests.eval.rollout.simulated_run import BASE, SIMULATOR


def record_training_assets(checkpoint, record: dict) -> None:
    data = checkpoint.parent / "data"
    (data / "meta").mkdir(parents=True)
    (data / "meta/atlasvla_collect.json").write_text(json.dumps(record))
    training = {"steps": 1, "batch_size": 1, "seed": 0, "log_freq": 1, "policy": {}}
    training["dataset"] = {"repo_id": "local/data", "root": str(data)}
    (checkpoint / "train_config.json").write_text(json.dumps(training))


def test_other_assets_than_in_training_are_refused(checkpoint, simulated, capsys):
    record_training_assets(checkpoint, {"assets": "official"})
    assert main(BASE) == 1
    message = capsys.readouterr().err
    assert "trained on official assets, but LIBERO has stand-in ones" in message
    assert "--allow_other_assets=true" in message
    assert simulated == []
    assert main([*BASE, "--allow_other_assets=true"]) == 0


@pytest.mark.parametrize(
    ("record", "warns"),
    [
        ({"assets": "official"}, False),  # by earlier versions
        ({"assets": "official", "simulator": {"assets": "official (verified)"}}, False),
        ({"assets": "official", "simulator": {"assets": "official (4 of 584 files differ)"}}, True),
    ],
)
def test_other_official_files_than_in_training_are_told(checkpoint, simulated, monkeypatch, caplog, record, warns):
    record_training_assets(checkpoint, record)
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": "official (verified)"})
    assert main(BASE) == 0
    warning = "trained on LIBERO assets official (4 of 584 files differ), and is rolled out on official (verified)"
    assert (warning in caplog.text) is warns


def test_a_view_of_unclear_origin_and_an_overlay_for_others_are_refused(tmp_path, monkeypatch, simulated, capsys):
    from lerobot.policies.act.configuration_act import ACTConfig

    from tests.eval.rollout.policy.test_checkpoint import FEATURES, save

    monkeypatch.chdir(tmp_path)
    images = {f"observation.images.{name}": FEATURES["input_features"]["observation.images.image"] for name in "ab"}
    save(tmp_path / "checkpoint", ACTConfig(**(FEATURES | {"input_features": images})))
    assert main(BASE) == 1
    assert "--cameras=" in capsys.readouterr().err
    cameras = '--cameras={"agentview_image": "a", "robot0_eye_in_hand_image": "b"}'
    assert main([*BASE, cameras, "--overlay=true"]) == 1
    assert "--overlay=true is for policies of type atlasvla; this one is of type act" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*BASE, cameras]) == 0


def test_the_environment_of_the_workers(checkpoint, simulated, monkeypatch, caplog):
    names = {
        "RENDER_EVERY",
        "RENDER_CAMERAS",
        "CULL",
        "DETERMINISTIC_RESET",
        "RENDER_QUALITY",
        "CAMERA_SHIFT",
        "DISPLACE_CM",
    }
    seen = []

    def count_parameters() -> int:
        seen.append({name: os.environ.get(f"ATLASVLA_LIBERO_{name}") for name in names})
        return 1

    monkeypatch.setattr(worker_pool, "count_parameters", count_parameters)
    monkeypatch.delenv("ATLASVLA_LIBERO_RENDER_EVERY", raising=False)
    assert main([*BASE, "--up_cm=3", "--displace_cm=8"]) == 0
    assert main([*BASE, "--output_dir=slow", "--fast_render=false"]) == 0
    assert json.loads(seen[0].pop("CAMERA_SHIFT")) == asdict(CameraShift(up_cm=3.0))
    assert seen[0].pop("RENDER_CAMERAS") == "agentview,robot0_eye_in_hand"
    assert seen[1]["RENDER_CAMERAS"] == ""
    assert seen[0] == {
        "RENDER_EVERY": "4",
        "CULL": "1",
        "DETERMINISTIC_RESET": "1",
        "RENDER_QUALITY": "fast",
        "DISPLACE_CM": "8.0",
    }
    assert seen[1]["DISPLACE_CM"] == "0.0"
    assert (seen[1]["RENDER_EVERY"], seen[1]["CULL"]) == ("1", "0")
    assert "ATLASVLA_LIBERO_RENDER_EVERY" not in os.environ


@pytest.mark.parametrize(
    ("views", "cameras", "rendered"),
    [
        (("none",), {}, "none"),
        ((WRIST,), {"robot0_eye_in_hand_image": "wrist_image"}, "robot0_eye_in_hand"),
        ((IMAGE,), {"agentview_image": "image"}, "agentview"),
    ],
)
def test_only_cameras_that_the_policy_looks_through_are_rendered(
    checkpoint, simulated, monkeypatch, views, cameras, rendered
):
    config = tiny_config(views=views)
    config.validate_features()
    config._save_pretrained(checkpoint)
    seen = []

    def count_parameters() -> int:
        seen.append(os.environ["ATLASVLA_LIBERO_RENDER_CAMERAS"])
        return 1

    monkeypatch.setattr(worker_pool, "count_parameters", count_parameters)
    assert main(BASE) == 0
    assert seen == [rendered]
    assert read_run("out").settings["cameras"] == cameras


def test_a_displacement_without_valid_placement_is_told_without_a_traceback(checkpoint, simulated, monkeypatch, capsys):
    def run_job(job: RolloutJob) -> FinishedRollout:
        raise DisplacementError("displace_cm=8 leaves no valid placement of the task.")

    monkeypatch.setattr(worker_pool, "run_job", run_job)
    assert main([*BASE, "--displace_cm=8"]) == 1
    assert capsys.readouterr().err.endswith("eval.run: displace_cm=8 leaves no valid placement of the task.\n")


def test_tasks_are_checked_against_libero(monkeypatch):
    from lerobot_atlasvla.libero import assets, setup

    stand_in = assets.LiberoAssets(path=None, kind="stand-in", source="")
    monkeypatch.setattr(setup, "prepare_libero", lambda: stand_in)
    pytest.importorskip("libero.libero.benchmark")
    tasks = simulator.libero_tasks(["libero_spatial"], None)
    assert [task.task_id for task in tasks] == list(range(10))
    assert tasks[4].instruction.startswith("pick up the black bowl in the top drawer")
    with pytest.raises(EvalError, match=r"'libero_moon', which LIBERO does not know; allowed: .*libero_spatial"):
        simulator.libero_tasks(["libero_moon"], None)
    with pytest.raises(EvalError, match="--task_ids names 10; libero_spatial has the tasks 0 to 9"):
        simulator.libero_tasks(["libero_spatial"], [0, 10])
    with pytest.raises(EvalError, match="libero_goal, but the built-in stand-in scene covers libero_spatial only"):
        simulator.libero_tasks(["libero_goal"], None)
