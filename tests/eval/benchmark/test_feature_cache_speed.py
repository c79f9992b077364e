"""The side-by-side of training with and without the feature cache: its verdict comes from the logs alone."""

import json
from pathlib import Path

import pytest

from eval.benchmark import feature_cache_speed as speed
from eval.benchmark.harness import shown
from eval.common.commands import Process
from eval.common.errors import EvalError

LINE = "INFO step:{step} smpl:4 ep:0 epch:0.1 loss:{loss:.3f} grdn:1.0 lr:1.0e-04 updt_s:{update:.3f} data_s:0.1"


def run_folder(root: Path, without: list[tuple[float, float]], cached: list[tuple[float, float]]) -> speed.SpeedConfig:
    """A run's logs: (loss, seconds) per step."""
    root.mkdir()
    for name, steps in (("without", without), ("with", cached)):
        lines = [LINE.format(step=i + 1, loss=loss, update=update) for i, (loss, update) in enumerate(steps)]
        (root / f"{name}.log").write_text("\n".join(lines))
    (root / "cache.log").write_text("Feature cache in F: 24 frames x 1 copies x 10.52 MB = 0.25 GB.")
    (root / "data.json").write_text(json.dumps({"frames": 24}))
    return speed.SpeedConfig(root=root, steps=len(without))


def processes() -> dict[str, Process]:
    return {name: Process(0, 10.0, 12.0, 5.0) for name in ("data", "without", "cache", "with")}


def test_the_first_update_does_not_count_and_equal_losses_are_recognized(tmp_path):
    cfg = run_folder(tmp_path / "run", [(0.5, 60.0), (0.4, 20.0), (0.3, 22.0)], [(0.5, 9.0), (0.401, 1.0), (0.3, 1.1)])
    values = speed.figures(cfg, processes())
    assert values["speed_up"] == pytest.approx(21.0 / 1.05)
    assert values["largest_loss_difference"] == pytest.approx(0.001)
    assert speed.verdict(values) == ("feature cache: update 20.0 times as fast, the same losses (at most 0.0010 apart)")
    report = speed.feature_cache_page(values, ["lerobot-train"], {"commit": "abc"})
    assert "| feature cache | 1.05 | 9.00, 1.00, 1.10 | 5.00 | 0.500, 0.401, 0.300 |" in report
    assert "10.52 MB a frame" in report


def test_other_losses_are_called_that(tmp_path):
    cfg = run_folder(tmp_path / "run", [(0.5, 6.0), (0.4, 2.0)], [(0.5, 0.9), (0.402, 0.1)])
    values = speed.figures(cfg, processes())
    assert not values["same_losses"]
    assert "OTHER LOSSES" in speed.verdict(values)


def test_a_log_that_lacks_a_step_is_an_error(tmp_path):
    cfg = run_folder(tmp_path / "run", [(0.5, 6.0), (0.4, 2.0)], [(0.5, 0.9)])
    with pytest.raises(EvalError, match=r"with\.log has 1 losses and 1 times, expected 2"):
        speed.figures(cfg, processes())


def test_both_runs_have_the_same_flags_but_for_the_cache(tmp_path):
    cfg = speed.SpeedConfig(root=tmp_path / "out", weights=tmp_path / "w")
    found = speed.commands(cfg)
    plain, cached = set(found["without"][1:]), set(found["with"][1:])
    assert cached - plain == {f"--policy.feature_cache={cfg.root / 'features'}", f"--output_dir={cfg.root / 'with'}"}
    assert plain - cached == {f"--output_dir={cfg.root / 'without'}"}
    assert set(found["cache"][1:]) - plain == {f"--policy.feature_cache={cfg.root / 'features'}"}
    text = shown(found["with"], {cfg.weights: "WEIGHTS", cfg.root: "ROOT"})
    assert text.startswith("lerobot-train --config_path=configs/policy/")
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "out").mkdir(), r"out exists already; choose another \(--root\)"),
        (lambda root: (root / "w/VGGT-1B/model.safetensors").unlink(), r"VGGT-1B has no model.safetensors.*--weights"),
    ],
)
def test_what_can_t_work_is_refused_before_anything_is_written(tmp_path, capsys, change, message):
    for name in ("VGGT-1B", "Qwen3-0.6B-Base"):
        (tmp_path / "w" / name).mkdir(parents=True)
        (tmp_path / "w" / name / "model.safetensors").touch()
    cfg = speed.SpeedConfig(root=tmp_path / "out", weights=tmp_path / "w")
    cfg.check()
    change(tmp_path)
    with pytest.raises(EvalError, match=message):
        cfg.check()
    assert speed.main([f"--root={tmp_path / 'out'}", f"--weights={tmp_path / 'w'}"]) == 1
    assert "eval.benchmark.feature_cache_speed: " in capsys.readouterr().err
    assert not (tmp_path / "out/data").exists()
