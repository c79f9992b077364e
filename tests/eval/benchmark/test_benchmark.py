"""The benchmark's command: what it refuses, which processes it starts, and what it makes of those that fail."""

import json
import signal
from pathlib import Path

import pytest

from eval.benchmark import command as benchmark
from eval.benchmark.command import BenchmarkConfig, command, main, read
from eval.common.commands import Process
from eval.common.errors import EvalError
from eval.report.results_table import results_block
from tests.eval.benchmark.pages.test_report import figures

# Presets are found from there.
pytestmark = pytest.mark.usefixtures("in_repository_root")


def config(**changes) -> BenchmarkConfig:
    return BenchmarkConfig(**({"device": "cpu"} | changes)).complete()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"device": "tpu"}, "--device"),
        ({"dtype": "float16"}, "--dtype"),
        ({"name": "mine"}, "--name"),
        ({"name": "benchmark-a/b"}, "--name"),
        ({"rounds": 0}, "--rounds"),
        ({"repetitions": 0}, "--repetitions"),
        ({"warmup": -1}, "--warmup"),
        ({"memory_limit_gib": -1.0}, "--memory_limit_gib"),
        ({"batch_sizes": [8, 8]}, "--batch_sizes"),
        ({"batch_sizes": []}, "--batch_sizes"),
        ({"policies": ["nobody"]}, "--policies"),
        ({"policies": ["act", "act"]}, "--policies"),
        ({"overrides": {"smolvla": {}}}, "--overrides"),
        ({"policies": ["atlasvla_base"], "weights": Path("nowhere")}, "--weights"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, part):
    with pytest.raises(EvalError, match=part):
        config(root=tmp_path / "root", reports=tmp_path / "reports", **changes)


def test_refused_on_the_command_line(capsys):
    assert main(["--device=cpu", "--name=mine"]) == 1
    assert "benchmark-" in capsys.readouterr().err
    assert main(["--rounds=many"]) == 2


def test_defaults_of_a_cpu():
    cfg = config()
    assert (cfg.named(), cfg.dtype, cfg.name) == (["atlasvla_tiny", "act"], "float32", "benchmark-cpu")
    assert 0 < cfg.memory_limit_gib < 10_000


def test_all_leaves_the_largest_to_a_gpu():
    cfg = config(policies=["all", "pi0"])
    assert cfg.named()[0] == "atlasvla_libero"
    assert {"act", "smolvla", "xvla", "pi0"} <= set(cfg.named())
    assert set(cfg.left_out()) == {"pi05", "pi0_fast"}
    cfg.device = "cuda"
    assert {"pi05", "atlasvla_libero+graphs", "atlasvla_da3_base", "atlasvla_da3_small+graphs"} <= set(cfg.named())
    assert cfg.left_out() == {}


def test_command():
    cfg = config(policies=["act"], overrides={"act": {"dim_model": 64}}, memory_limit_gib=0.0)
    first, second = (command(cfg, "act", number, Path("o.json")) for number in (0, 1))
    assert first[1:3] == ["-m", "eval.benchmark.worker"]
    assert {"--policy=act", "--batch_sizes=[1, 8, 16]", '--overrides={"dim_model": 64}', "--checkpoint=true"} < {*first}
    assert "--checkpoint=false" in second


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (-signal.SIGALRM, "took longer than --timeout_s=9, in stage: acting"),
        (-signal.SIGKILL, "SIGKILL: out of memory, most likely, in stage: acting"),
        (1, "exit status 1, in stage: acting"),
    ],
)
def test_a_process_that_was_ended_keeps_its_figures(tmp_path, status, why):
    out = tmp_path / "act.json"
    out.write_text(json.dumps({"stage": "acting", "build_s": 2.0}))
    found = read(out, Process(status, 1.0, 1.0, 1.0), timeout_s=9)
    assert (found["failed"], found["build_s"]) == (why, 2.0)
    assert "failed" not in read(out, Process(0, 1.0, 1.0, 1.0), timeout_s=9)


def test_rounds_take_turns_and_a_failure_is_listed(tmp_path, monkeypatch):
    started = []

    def measure(name, command, log, environment):
        flags = dict(part.split("=", 1) for part in command[3:])
        started.append(name)
        assert environment["HF_HUB_OFFLINE"] == "1"
        content = {"stage": "build", "failed": "ImportError: no diffusers"}
        if flags["--policy"] != "diffusion":
            content = figures(10.0 if flags["--policy"] == "act" else 5.0) | {"stage": "done"}
        Path(flags["--out"]).write_text(json.dumps(content))
        return Process(0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(benchmark, "measure", measure)
    reports, root = tmp_path / "reports", tmp_path / "root"
    flags = ["--policies=[atlasvla_tiny, diffusion, act]", "--device=cpu", "--batch_sizes=[8, 16]"]
    flags += [f"--reports={reports}", f"--root={root}"]
    assert main(flags) == 0
    turns = [("atlasvla_tiny", 1), ("diffusion", 1), ("act", 1), ("atlasvla_tiny", 2), ("act", 2)]
    assert started == [f"{name}, round {number}" for name, number in turns]
    content = json.loads((reports / "benchmark-cpu/report.json").read_text())
    assert (content["kind"], content["complete"]) == ("benchmark", True)
    assert content["not_measured"] == {"diffusion": "ImportError: no diffusers"}
    assert content["rows"][0]["ratios"]["act"]["latency"] == pytest.approx(0.5)
    assert [len(found) for found in content["processes"].values()] == [2, 1, 2]
    assert len(content["commands"]) == 6
    text = (reports / "benchmark-cpu/report.md").read_text()
    assert "- diffusion: ImportError: no diffusers" in text
    assert "preliminary" not in text
    assert (reports / "benchmark-cpu/report.png").stat().st_size > 5000
    # The table of results knows nothing of this kind, and must not mind.
    assert "benchmark" not in results_block(reports, tmp_path / "README.md").replace(str(tmp_path), "")
    # A second run keeps the first one's files.
    assert main(flags) == 0
    assert len(list(root.iterdir())) == 2


@pytest.mark.slow
def test_a_real_process(tmp_path, capsys):
    flags = ["--policies=[atlasvla_tiny]", "--device=cpu", "--rounds=1", "--threads=1"]
    flags += ["--batch_sizes=[2]", "--repetitions=2", "--train_steps=2", "--warmup=1"]
    assert main([*flags, f"--reports={tmp_path}/reports", f"--root={tmp_path}/root"]) == 0
    content = json.loads((tmp_path / "reports/benchmark-cpu/report.json").read_text())
    (row,) = content["rows"]
    assert (row["policy"], row["errors"], row["finite"], row["threads"]) == ("atlasvla_tiny", [], True, 1)
    assert row["training"][0]["samples_per_s"] > 0
    assert 0.07e9 < row["chunk_flops"]["float32"] < 0.09e9
    assert 0 < row["floor_ms"] < row["model"]["p50_ms"]
    assert "ceiling of matrix products: float32" in capsys.readouterr().out
    assert 0 < row["imports_s"] < row["time_to_first_action_s"]
    assert content["not_measured"] == {}
    states = {target["policy"]: target["state"] for target in content["targets"]}
    assert states["atlasvla_libero"] == "unmeasured"
    assert states["atlasvla_tiny"] in ("met", "missed")
