"""The full-size run without the full size: commands, bars, report, exit status and what it refuses to start."""

import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from eval.benchmark.full_size import command as full_size
from eval.benchmark.full_size.command import FullSizeConfig, check_room, main, preset_commands, set_aside_earlier, shown
from eval.benchmark.full_size.report import FullSizeOutcome, PresetResult, bars, full_size_page, passed
from eval.common.commands import GIB, Process, measure, offline
from eval.common.environment_info import machine
from eval.common.errors import EvalError

PRESETS = FullSizeConfig().presets
GEOMETRY = {
    "atlasvla_dinov2": ["--policy.vggt_model=w/VGGT-1B", "--policy.vision_tower=w/dinov2-base"],
    "atlasvla_da3_small": ["--policy.da3_model=w/DA3-SMALL"],
    "atlasvla_da3_base": ["--policy.da3_model=w/DA3-BASE"],
}


# Presets are found from there.
pytestmark = pytest.mark.usefixtures("in_repository_root")


def preset_result(preset: str, **overrides) -> PresetResult:
    act = {
        "load_s": 12.3,
        "first_action_s": 4.5,
        "second_action_s": 3.5,
        "queued_action_s": 0.001,
        "trained_parameters": 57_800_000,
        "all_parameters": 1_563_000_000,
        "trained_finite": True,
        "actions_finite": True,
        "action_shape": [1, 7],
    }
    load = {"load_s": 5.0, "weights_gib": 2.9, "before_gib": 0.4, "peak_gib": 3.4, "after_gib": 3.3, "ratio": 1.03}
    values = {
        "processes": {stage: Process(0, 60.0, 9.0, 7.5) for stage in ("train", "resume", "act", "load")},
        "losses": [0.51, 0.52, 0.53],
        "step_s": [20.0, 19.0, 21.0],
        "last_step": 3,
        "checkpoint_mb": 231.0,
        "folder_mb": 231.4,
        "act": act | overrides.pop("act", {}),
        "load": load | overrides.pop("load", {}),
    }
    return PresetResult(preset, **(values | overrides))


def outcome(**overrides) -> FullSizeOutcome:
    """A run in which the first preset has the given figures."""
    first, *others = PRESETS
    return FullSizeOutcome(
        steps=2,
        prepared={"weights": Process(0, 1.0, 9.0, 0.6), "data": Process(0, 9.0, 9.0, 0.8)},
        presets=[preset_result(first, **overrides), *(preset_result(preset) for preset in others)],
        aggregator={1: Process(0, 30.0, 9.0, 4.0), 2: Process(0, 40.0, 9.0, 4.1)},
        aggregator_figures={
            views: {"median_forward_s": 2.0 * views, "forward_s": [3, 4, 5], "private_gib": 0.5, "finite": True}
            for views in (1, 2)
        },
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_commands_name_the_preset_the_weights_and_the_cpu(preset):
    cfg = FullSizeConfig(root=Path("out"), weights=Path("w"), steps=4, batch_size=3)
    commands = preset_commands(cfg, preset)
    assert list(commands) == ["train", "resume", "act", "load"]
    train = commands["train"]
    assert Path(train[0]).name == "lerobot-train"
    flags = {
        f"--config_path=configs/policy/{preset}.yaml",
        *GEOMETRY.get(preset, ["--policy.vggt_model=w/VGGT-1B"]),
        "--policy.language_model=w/Qwen3-0.6B-Base",
        "--policy.device=cpu",
        "--policy.dtype=float32",
        "--dataset.repo_id=local/full_size",
        "--dataset.root=out/data",
        "--batch_size=3",
        "--steps=4",
        "--num_workers=0",
        "--log_freq=1",
        "--save_freq=4",
        "--env_eval_freq=0",
        f"--output_dir=out/{preset}/train",
    }
    assert set(train[1:]) == flags

    last = f"out/{preset}/train/checkpoints/last/pretrained_model"
    assert commands["resume"][1:] == [f"--config_path={last}/train_config.json", "--resume=true", "--steps=5"]
    assert {"eval.benchmark.full_size.worker", "--what=act", f"--path={last}"} <= set(commands["act"])


def test_only_the_weights_that_the_presets_need_are_written():
    da3 = FullSizeConfig(root=Path("out"), presets=["atlasvla_da3_base"])
    assert full_size.preparation(da3)["weights"][-1] == "--models=[DA3-BASE,Qwen3-0.6B-Base]"
    assert full_size.aggregator_commands(da3) == {}
    assert FullSizeConfig().models == ["DA3-BASE", "DA3-SMALL", "Qwen3-0.6B-Base", "VGGT-1B", "dinov2-base"]
    assert FullSizeConfig(presets=["atlasvla_tiny"]).models == []


def test_weights_lie_in_the_root_unless_elsewhere():
    assert FullSizeConfig(root=Path("out")).weights_folder == Path("out/weights")
    assert FullSizeConfig(root=Path("out"), weights=Path("w")).weights_folder == Path("w")


def test_commands_are_shown_without_the_folders():
    cfg = FullSizeConfig(root=Path("/somewhere/out"), weights=Path("/somewhere/out/w"))
    command = ["/bin/python", "-m", "x", "--a=/somewhere/out/w/VGGT-1B", "--b=/somewhere/out", "--c=/somewhere/output"]
    assert shown(cfg, command) == "python -m x --a=WEIGHTS/VGGT-1B --b=ROOT --c=/somewhere/output"


def test_a_good_run_meets_every_bar():
    assert [str(bar) for bar in bars(outcome()) if not bar.met] == []
    assert passed(outcome()) == PRESETS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"act": {"trained_parameters": 60_000_001}}, "at most 60,000,000 trained parameters: 60,000,001"),
        ({"checkpoint_mb": 301.0}, "model.safetensors of at most 300 MB: 301 MB"),
        ({"losses": [0.5, 0.5]}, "3 finite losses: 2"),
        ({"last_step": 2}, "resumed up to step 3: step 2"),
        ({"act": {"trained_finite": False}}, "finite trained weights: no"),
        ({"act": {"actions_finite": False}}, "finite actions: no"),
        ({"act": {"action_shape": [7]}}, "actions of shape (1, 7): (7,)"),
        ({"load": {"ratio": 1.21}}, "own memory while loading in bfloat16 at most 1.2 times what stays: 1.21"),
        ({"processes": {"train": Process(0, 1.0, 9.0, 16.01)}}, "train: peak memory at most 16 GiB: 16.01 GiB"),
        ({"processes": {"train": Process(-9, 1.0, 9.0, 3.0)}, "act": {}}, "train: exit status 0: -9"),
    ],
)
def test_a_missed_bar_is_named_and_fails_the_run(overrides, message, tmp_path, capsys):
    made = outcome(**overrides)
    assert [str(bar) for bar in bars(made) if not bar.met] == [f"atlasvla_libero: {message}"]
    assert passed(made) == PRESETS[1:]
    cfg = FullSizeConfig(root=tmp_path)
    assert full_size.write_report(cfg, made, [], 100.0, {}) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"missed: atlasvla_libero: {message}"
    assert lines[-1].startswith("full size: 4 of 5 presets pass, peak ")
    report = (tmp_path / "report.md").read_text()
    assert f"- MISSED: atlasvla_libero: {message}" in report
    assert "| atlasvla_libero | **fail** |" in report


def test_limits_of_the_default_preset_do_not_bind_the_others():
    made = outcome()
    made.presets[1].act["trained_parameters"] = 61_000_000
    made.presets[1].checkpoint_mb = 400.0
    assert passed(made) == PRESETS


def test_the_aggregator_has_bars_too():
    made = outcome()
    made.aggregator_figures[2]["finite"] = False
    made.aggregator[1] = Process(1, 3.0, 9.0, 17.0)
    missed = [str(bar) for bar in bars(made) if not bar.met]
    assert missed == [
        "aggregator: 1 view(s): exit status 0: 1",
        "aggregator: 1 view(s): peak memory at most 16 GiB: 17.00 GiB",
        "aggregator: 2 view(s): finite output: no",
    ]
    assert made.peak_gib() == 17.0


def test_report_and_figures_are_written(tmp_path, capsys):
    cfg = FullSizeConfig(root=tmp_path / "out")
    cfg.root.mkdir()
    assert full_size.write_report(cfg, outcome(), [f"--root={cfg.root}", "--steps=2"], 100.0, machine()) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"full size: 5 of 5 presets pass, peak 7.5 GiB, report {cfg.root / 'report.md'}"
    report = (cfg.root / "report.md").read_text()
    assert str(tmp_path) not in report
    row = (
        "| atlasvla_libero | pass | 57.8 / 1,563.0 | 60 (9) / 60 (9) / 60 (9) / 60 (9) | 20.0, 19.0, 21.0 "
        "| 7.50 / 7.50 / 7.50 / 7.50 "
        "| 231 (231) | 12.3 | 4.500 / 3.500 / 0.001 | 0.510, 0.520, 0.530 |"
    )
    assert row in report
    assert "| atlasvla_libero | 2.90 | 0.40 / 3.40 / 3.30 | 1.03 | 5.0 |" in report
    assert "| 2 | 4.00 (3.00, 4.00, 5.00) | 40 (9) | 4.10 (0.50) | 17.4-17.7 | 4.1 |" in report
    assert "no side-by-side\nmeasurement" in report
    assert "python -m eval.full_size --root=ROOT --steps=2" in report
    content = json.loads((cfg.root / "report.json").read_text())
    assert content["outcome"]["presets"][0]["processes"]["train"] == {
        "status": 0,
        "wall_s": 60.0,
        "cpu_s": 9.0,
        "peak_gib": 7.5,
    }
    assert all(bar["met"] for bar in content["bars"])
    assert content["environment"].keys() == {"processor", "cores", "memory"}


def test_report_of_a_run_that_broke_off_early():
    made = FullSizeOutcome(
        2, {}, [PresetResult("atlasvla_libero", {"train": Process(1, 5.0, 9.0, 1.0)})], {1: Process(1, 5.0, 9.0, 1.0)}
    )
    report = full_size_page(made, "last line", [], {})
    assert "| atlasvla_libero | **fail** | - | 5 (9) | - | 1.00 | - | - | - | - |" in report
    assert "| 1 | - | 5 (9) | 1.00 | 9.3-11.8 | 4.0 |" in report


def test_a_child_s_memory_is_its_own_and_a_failure_is_reported(tmp_path, capfdbinary):
    quiet = measure("quiet", [sys.executable, "-c", "print('done')"], tmp_path / "quiet.log", offline())
    large = measure(
        "large", [sys.executable, "-c", "x = b'1' * 2**30; raise SystemExit(3)"], tmp_path / "large.log", offline()
    )
    assert (quiet.status, large.status) == (0, 3)
    assert (tmp_path / "quiet.log").read_bytes() == b"done\n"
    assert b"done" in capfdbinary.readouterr().out
    assert 1.0 < large.peak_gib < quiet.peak_gib + 1.1


def test_a_stage_that_fails_ends_its_preset(tmp_path, monkeypatch):
    asked = []

    def fail(name: str, command: list[str], log: Path, environment: dict[str, str]) -> Process:
        asked.append(name)
        return Process(-9, 1.0, 9.0, 3.0)

    monkeypatch.setattr(full_size, "measure", fail)
    result = full_size.run_preset(FullSizeConfig(root=tmp_path), "atlasvla_libero")
    assert asked == ["atlasvla_libero, train"]
    assert result == PresetResult("atlasvla_libero", {"train": Process(-9, 1.0, 9.0, 3.0)})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--presets=[atlasvla_huge]"], "no preset atlasvla_huge in configs/policy, which has atlasvla_base, "),
        (["--presets=[]"], "every preset is to be named once"),
        (["--steps=0"], "must be at least 1"),
        (["--weights={root}"], "must be two folders"),
    ],
)
def test_what_cannot_work_is_refused_at_once(flags, message, tmp_path, capsys):
    root = tmp_path / "out"
    assert main([f"--root={root}", *(flag.format(root=root) for flag in flags)]) == 1
    assert message in capsys.readouterr().err
    assert not root.exists()


def test_a_full_disk_is_found_beforehand(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100 * GIB, 90 * GIB, 9 * 10**9))
    assert main([f"--root={tmp_path / 'out'}"]) == 1
    # 7.0 GB of weights and 2 GB a preset.
    assert "needs 17.0 GB, its disk has 9.0 GB left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    check_room(FullSizeConfig(root=tmp_path / "out", presets=["atlasvla_libero"]))


def test_an_earlier_run_is_moved_and_its_weights_stay(tmp_path, capsys):
    cfg = FullSizeConfig(root=tmp_path / "out")
    (cfg.weights_folder / "VGGT-1B").mkdir(parents=True)
    set_aside_earlier(cfg)
    assert list(tmp_path.iterdir()) == [cfg.root]
    (cfg.root / "weights.log").touch()
    (cfg.root / "report.md").touch()
    set_aside_earlier(cfg)
    assert [entry.name for entry in cfg.root.iterdir()] == ["weights"]
    (kept,) = set(tmp_path.iterdir()) - {cfg.root}
    assert sorted(entry.name for entry in kept.iterdir()) == ["report.md", "weights.log"]
    assert str(kept) in capsys.readouterr().out


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(EvalError, match=r"such as thesis.tex. Choose another --root"):
        set_aside_earlier(FullSizeConfig(root=tmp_path))
    assert (tmp_path / "thesis.tex").exists()
