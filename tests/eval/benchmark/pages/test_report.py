"""Made-up figures through rows, ratios, targets and the Markdown of the benchmark."""

import pytest

from eval.benchmark.pages.report import NOT_IN_RUN, add_ratios, benchmark_page, floors, summarize
from eval.benchmark.pages.targets import CACHED, targets


def figures(model_ms: float = 10.0, training: dict | None = None, **changes) -> dict:
    """What a probe wrote in one round; ``training`` is batch size to seconds per step or an error."""
    entries = [
        {"batch_size": size, "error": found}
        if isinstance(found, str)
        else {"batch_size": size, "step_s": [found] * 3, "peak_bytes": 10**9 * size}
        for size, found in (training or {8: 0.5, 16: 1.0}).items()
    ]
    return {
        "precision": "dtype bfloat16",
        "notes": [],
        "parameters": 2_000_000,
        "trained_parameters": 1_000_000,
        "chunk_size": 20,
        "n_action_steps": 20,
        "threads": 2,
        "finite": True,
        "model_s": [model_ms / 1000] * 10,
        "sensor_s": [2 * model_ms / 1000] * 10,
        "between_s": [0.001] * 10,
        "training": entries,
        "ceiling_flops_per_s": {"float32": 1e12, "bfloat16": 8e12},
        "chunk_flops": {"float32": 10**9, "bfloat16": 64 * 10**9},
        "before_build_bytes": 10**9,
        "inference_peak_bytes": 3 * 10**9,
        "imports_s": 5.0,
        "build_s": 1.0,
        "first_chunk_s": 0.5,
        "time_to_first_action_s": 6.5,
        "checkpoint_bytes": 231_000_000,
    } | changes


def rows_of(device: str = "cuda", **policies: dict | list) -> list[dict]:
    """Rows with ratios; a plus sign in a name is written as two underscores."""
    rows = [
        summarize(name.replace("__", "+"), found if isinstance(found, list) else [found], device)
        for name, found in policies.items()
    ]
    add_ratios(rows)
    return rows


def states(rows: list[dict], device: str = "cuda", gpu: str = "NVIDIA H200") -> dict[str, str]:
    return {target.metric: target.state for target in targets(rows, device, gpu)}


def test_quantiles_over_all_rounds_and_their_spread():
    slow = figures() | {"model_s": [0.020] * 10}
    (row,) = rows_of(act=[figures(), slow])
    assert row["model"] == pytest.approx({"p50_ms": 15.0, "p95_ms": 20.0, "spread": 1.0})
    assert row["sensor"]["spread"] == pytest.approx(0)
    assert row["rounds"] == 2


def test_actions_per_second_with_the_steps_between():
    (row,) = rows_of(act=figures())
    # A chunk of 20 ms, and 19 or 9 steps of 1 ms.
    assert row["actions_per_s"] == pytest.approx(1000 * 20 / 39)
    assert row["actions_per_s_at_10"] == pytest.approx(1000 * 10 / 29)
    (short,) = rows_of(act=figures() | {"chunk_size": 4, "n_action_steps": 1, "between_s": []})
    assert short["actions_per_s"] == pytest.approx(1000 / 20)
    assert short["actions_per_s_at_10"] is None


def test_inference_memory_of_a_cpu_is_what_the_policy_added():
    (on_cpu,), (on_gpu,) = rows_of("cpu", act=figures()), rows_of("cuda", act=figures())
    assert (on_cpu["inference_bytes"], on_cpu["process_bytes"]) == (2 * 10**9, 3 * 10**9)
    assert (on_gpu["inference_bytes"], on_gpu["process_bytes"]) == (3 * 10**9, None)


def test_ratios_are_to_the_quickest_variant_in_the_run():
    rows = rows_of(
        atlasvla_libero=figures(5.0, {16: 0.5}),
        smolvla=figures(40.0, {16: 1.0}),
        smolvla__amp=figures(20.0, {16: 2.0}),
    )
    assert rows[0]["ratios"]["smolvla"]["latency"] == pytest.approx(0.25)
    assert rows[0]["ratios"]["smolvla"]["training"] == pytest.approx({"16": 2.0})
    assert rows[0]["ratios"]["act"] == {"latency": None, "training": {"16": None}}


def test_a_batch_size_out_of_memory_has_no_ratio():
    rows = rows_of(act=figures(training={8: 1.0, 16: "out of memory"}), atlasvla_tiny=figures())
    assert rows[1]["ratios"]["act"]["training"] == {"8": pytest.approx(2.0), "16": None}
    assert rows[0]["training"][1] == {"batch_size": 16, "error": "out of memory"}


def test_targets_met_on_the_gpu_they_are_for():
    rows = rows_of(atlasvla_libero=figures(5.0), smolvla=figures(11.0, {16: 1.5}))
    rows[0]["floor_share"] = 9 / 9.5
    found = states(rows)
    assert found.pop(f"{CACHED} >= 10 x") == "unmeasured"
    assert len(found) == 8
    assert set(found.values()) == {"met"}


def test_targets_missed():
    slow = figures(7.0, {8: 1.0, 16: 2.0}) | {"checkpoint_bytes": 301_000_000, "inference_peak_bytes": 31 * 10**8}
    slow["training"][0]["peak_bytes"] = 11 * 10**9
    rows = rows_of(atlasvla_libero=slow, smolvla=figures(9.0, {16: 1.9}))
    rows[0]["floor_share"] = 0.9
    found = states(rows)
    del found[f"{CACHED} >= 10 x"]
    assert len(found) == 8
    assert set(found.values()) == {"missed"}


@pytest.mark.parametrize(
    ("preset", "good", "bad"),
    [("atlasvla_da3_small", (4.0, 0.2), (6.0, 0.3)), ("atlasvla_da3_base", (14.0, 0.6), (16.0, 0.7))],
)
def test_targets_of_da3_beside_smolvla(preset, good, bad):
    for (latency_ms, step_s), gb, state in ((good, 2.9, "met"), (bad, 5.1, "missed")):
        row = figures(latency_ms, {8: 1.0, 16: step_s})
        row["training"][0]["peak_bytes"] = int(gb * 1e9)
        rows = rows_of("cpu", **{preset: row, "smolvla": figures(100.0, {16: 2.0})})
        found = {target.metric: target.state for target in targets(rows, "cpu", "") if target.policy == preset}
        on_gpu = [found.pop(metric) for metric in list(found) if metric.startswith("chunk latency, model-only")]
        assert set(on_gpu) <= {"unmeasured"}
        assert len(found) == 3
        assert set(found.values()) == {state}
    in_float32 = rows_of("cpu", **{preset: row | {"precision": "dtype float32"}})
    found = [target for target in targets(in_float32, "cpu", "") if target.metric.startswith("training memory")]
    assert [
        (target.state, "needs --dtype=bfloat16" in target.measured) for target in found if target.policy == preset
    ] == [("unmeasured", True)]


def test_a_gpu_target_of_da3():
    for name, latency_ms, state in (("NVIDIA H100", 2.9, "met"), ("NVIDIA H200", 3.1, "missed")):
        rows = rows_of(**{"atlasvla_da3_base+graphs": figures(latency_ms)})
        assert states(rows, gpu=name)["chunk latency, model-only P50 <= 3 ms"] == state


def test_the_floor_is_each_dtypes_arithmetic_at_its_ceiling():
    slower = figures() | {"ceiling_flops_per_s": {"float32": 0.5e12, "bfloat16": 4e12}}
    (row,) = rows_of(act=[slower, figures()])
    # 1 GFLOP at 1 TFLOP/s and 64 at 8, of 10 ms.
    assert (row["floor_ms"], row["floor_share"]) == (pytest.approx(9.0), pytest.approx(0.9))
    assert floors([row]) == [
        "ceiling of matrix products: float32 1,000 GFLOP/s, bfloat16 8,000 GFLOP/s, 2 threads",
        "floor: act: 9 ms of 10 ms a chunk, 90 %",
    ]


def test_no_floor_without_a_count_or_for_an_unknown_dtype():
    uncounted, half = figures(), figures() | {"chunk_flops": {"float16": 10**9}}
    del uncounted["chunk_flops"]
    rows = rows_of(act=uncounted, smolvla=half)
    assert [(row["floor_ms"], row["floor_share"]) for row in rows] == [(None, None)] * 2
    assert floors(rows) == []


@pytest.mark.parametrize(("seconds", "state"), [(0.1, "met"), (0.3, "missed")])
def test_the_feature_cache_has_one_target_and_its_own_row(seconds, state):
    rows = rows_of(
        atlasvla_libero=figures(5.0),
        smolvla=figures(11.0, {16: 2.0}),
        **{"atlasvla_libero+cache": figures(5.0, {16: seconds})},
    )
    found = [target for target in targets(rows, "cuda", "NVIDIA H200") if target.policy == "atlasvla_libero+cache"]
    assert [(target.metric, target.state) for target in found] == [(f"{CACHED} >= 10 x", state)]


def test_what_a_cpu_or_another_gpu_leaves_open():
    rows = rows_of(atlasvla_libero=figures(5.0))
    elsewhere = states(rows, gpu="NVIDIA A100")
    assert elsewhere["chunk latency, two views, model-only P50 <= 6.9 ms"] == "unmeasured"
    assert elsewhere["chunk latency over SmolVLA's <= 0.5 x"] == "unmeasured"
    assert elsewhere["inference memory <= 3 GB"] == "met"
    on_cpu = states(rows_of("cpu", atlasvla_libero=figures(5.0), smolvla=figures(90.0)), "cpu", "")
    assert on_cpu["chunk latency over SmolVLA's <= 0.5 x"] == "unmeasured"
    assert on_cpu["training memory, batch 8 <= 10 GB"] == "unmeasured"
    assert on_cpu["checkpoint <= 300 MB"] == "met"


def test_targets_without_the_default_preset_are_listed_as_unmeasured():
    found = targets(rows_of("cpu", atlasvla_tiny=figures(5.0, {16: 0.05})), "cpu", "")
    unmeasured = [target for target in found if target.policy.startswith("atlasvla_libero")]
    assert len(unmeasured) == 9
    assert {target.state for target in unmeasured} == {"unmeasured"}
    tiny = [target.state for target in found if target.policy == "atlasvla_tiny"]
    assert tiny == ["met", "met"]


def test_tiny_targets_ask_for_two_cores():
    row = figures(8.0, {16: 0.06})
    found = [t.state for t in targets(rows_of("cpu", atlasvla_tiny=row), "cpu", "") if t.policy == "atlasvla_tiny"]
    assert found == ["missed", "missed"]
    many = row | {"threads": 16}
    found = [t.state for t in targets(rows_of("cpu", atlasvla_tiny=many), "cpu", "") if t.policy == "atlasvla_tiny"]
    assert found == ["unmeasured", "unmeasured"]


def test_markdown():
    rows = rows_of("cpu", act=figures(training={8: 0.5, 16: "out of memory"}, notes=["random ResNet"]))
    text = benchmark_page(
        {
            "name": "benchmark-x",
            "complete": False,
            "rows": rows,
            "settings": {"batch_sizes": [8, 16]},
            "not_measured": {"vqbet": "ValueError: one image"},
            "targets": [vars(target) for target in targets(rows, "cpu", "")],
            "commands": ["python -m eval.benchmark"],
            "environment": {"torch": "2"},
        }
    )
    assert "| act | 10 / 10 | one round | 20 / 20 | one round | 1 | 20 / 20 | 513 / 345 |" in text
    assert "| act | 16 (spread one round), 8.00 GB | out of memory |" in text
    assert f"| act | {NOT_IN_RUN} | {NOT_IN_RUN} | {NOT_IN_RUN} | 1.00x | 1.00x | - |" in text
    assert "| act | 2.0 / 1.0 | 2.00 (3.00) | 231.0 | 6.5 | 5.00 / 1.00 / 0.50 |" in text
    assert "| act | 1 float32, 64 bfloat16 | 1,000 / 8,000 | 9 | 10 | 90 % |" in text
    assert "- act: dtype bfloat16; random ResNet" in text
    assert "- vqbet: ValueError: one image" in text
    assert "preliminary" in text
