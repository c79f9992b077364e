"""How the benchmark builds policies and what one process measures, with the smallest ones."""

import json
import time
from functools import partial

import pytest
import torch

from eval.benchmark import ceiling, worker
from eval.benchmark.policies import ACTION_DIM, CAMERAS, RandomTokens, build, raw_batch, raw_observation
from eval.benchmark.settings import ON_CPU_NOTE, RANDOM_LANGUAGE_NOTE, check_names, settings
from eval.benchmark.worker import Recorder, WorkerConfig, measure, out_of_memory
from eval.common.errors import EvalError

TINY_ACT = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1}
TINY_ACT |= {"chunk_size": 12, "n_action_steps": 6}
# The default preset's recipe (frozen parts that are read for features), at no size.
SMALL = {
    "image_size": [32, 32],
    "vggt_patch_embed": "conv",
    "vggt_patch_size": 8,
    "vggt_embed_dim": 32,
    "vggt_depth": 2,
    "vggt_num_heads": 2,
    "vggt_output_layers": [0, 1],
    "language_hidden_size": 16,
    "language_num_layers": 1,
    "language_num_heads": 2,
    "decoder_hidden_size": 48,
    "decoder_num_layers": 1,
}


@pytest.fixture(autouse=True)
def _small_products(monkeypatch):
    """The machine's rate matters to nothing here, and takes seconds."""
    monkeypatch.setattr(ceiling, "SIDES", {"cpu": (32,)})
    monkeypatch.setattr(worker, "matmul_flops_per_s", partial(ceiling.matmul_flops_per_s, seconds=0.0))


def probe(tmp_path, policy: str, **changes) -> dict:
    """Figures of a probe in this process."""
    values = {"batch_sizes": [1, 2], "warmup": 1, "repetitions": 2, "train_steps": 2} | changes
    cfg = WorkerConfig(policy=policy, out=tmp_path / "out.json", started=time.monotonic() - 100, **values)
    recorder = Recorder(cfg.out, policy)
    measure(cfg, recorder)
    assert json.loads(cfg.out.read_text()) == json.loads(json.dumps(recorder.figures))
    return recorder.figures


def test_pretrained_parts_start_at_random_and_stay_frozen():
    values, notes = settings("atlasvla_libero", "bfloat16", None, {})
    assert (values["vggt_init"], values["freeze_vggt"]) == ("random", True)
    assert (values["language_init"], values["freeze_language"]) == ("random", True)
    assert (values["language_hidden_size"], values["backbone_dtype"]) == (1024, "bfloat16")
    assert "vision_tower_init" not in values
    assert notes == [RANDOM_LANGUAGE_NOTE, ON_CPU_NOTE]
    assert settings("atlasvla_libero", "bfloat16", None, {"language_on_cpu": False})[1] == [RANDOM_LANGUAGE_NOTE]
    tower, _ = settings("atlasvla_dinov2", "float32", None, {})
    assert (tower["vision_tower_init"], tower["freeze_vision_tower"]) == ("random", True)


def test_what_learns_in_a_preset_goes_on_learning():
    values, notes = settings("atlasvla_tiny", "float32", None, {})
    assert (values["vggt_init"], values["language_hidden_size"]) == ("random", 64)
    assert "freeze_vggt" not in values
    assert notes == []


def test_weights_made_in_the_released_sizes_are_read(tmp_path):
    values, notes = settings("atlasvla_dinov2", "float32", tmp_path, {"chunk_size": 4})
    assert values["vggt_model"] == str(tmp_path / "VGGT-1B")
    assert values["vision_tower"] == str(tmp_path / "dinov2-base")
    assert "language_init" not in values
    assert values["freeze_language"] is True
    assert values["chunk_size"] == 4
    assert notes == []


def test_a_da3_preset_takes_its_own_size(tmp_path):
    for size, width in (("small", 384), ("base", 768)):
        random, _ = settings(f"atlasvla_da3_{size}", "float32", None, {})
        assert (random["da3_init"], random["freeze_da3"], random["da3_embed_dim"]) == ("random", True, width)
        assert "vggt_init" not in random
        read, _ = settings(f"atlasvla_da3_{size}", "float32", tmp_path, {})
        assert read["da3_model"] == str(tmp_path / f"DA3-{size.upper()}")
        assert "da3_init" not in read


@pytest.mark.parametrize(("name", "part"), [("none", "no policy 'none'"), ("act+fast", "unknown variant 'fast'")])
def test_unknown_names(name, part):
    with pytest.raises(EvalError, match=part):
        check_names(["act+amp", name])


def test_random_tokens_are_as_many_as_words():
    tokens = RandomTokens()(["put it down"] * 2, max_length=8, padding="max_length", truncation=True)
    assert tokens["input_ids"].shape == (2, 8)
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]] * 2
    assert RandomTokens()(["put it down"], max_length=8, padding="longest")["input_ids"].shape == (1, 3)


def test_a_frozen_preset_acts_then_trains_only_what_is_new(tmp_path):
    built = build("atlasvla_libero", "cpu", "float32", None, SMALL)
    frozen = {id(p) for module in built.policy.model.backbones().values() for p in module.parameters()}
    assert {id(p) for p in built.policy.parameters() if not p.requires_grad} == frozen
    figures = probe(tmp_path, "atlasvla_libero", overrides=SMALL)
    assert figures["stage"] == "done"
    assert "failed" not in figures
    assert [entry["batch_size"] for entry in figures["training"] if "step_s" in entry] == [1, 2]
    trained = 4 * figures["trained_parameters"]
    # Slim: what learns, in float32, and small files beside it.
    assert trained <= figures["checkpoint_bytes"] < trained + 200_000


def test_act(tmp_path):
    figures = probe(tmp_path, "act", overrides=TINY_ACT)
    assert figures["stage"] == "done"
    assert (figures["chunk_size"], figures["n_action_steps"]) == (12, 6)
    assert [len(figures[part]) for part in ("model_s", "sensor_s", "between_s")] == [2, 2, 10]
    # A step from the queue runs no model. The fastest of each: the others may have waited for a busy machine.
    assert min(figures["between_s"]) < min(figures["sensor_s"]) / 2
    assert figures["imports_s"] > 100
    parts = figures["imports_s"] + figures["build_s"] + figures["first_chunk_s"]
    assert figures["time_to_first_action_s"] == pytest.approx(parts)
    assert figures["checkpoint_bytes"] > 4 * figures["parameters"]
    assert figures["inference_peak_bytes"] > figures["before_build_bytes"]


def test_a_batch_without_memory_is_recorded(tmp_path, monkeypatch):
    from lerobot.policies.act.modeling_act import ACTPolicy

    forward = ACTPolicy.forward

    def limited(self, batch, *rest):
        if len(batch["action"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return forward(self, batch, *rest)

    monkeypatch.setattr(ACTPolicy, "forward", limited)
    shortest = {"repetitions": 1, "train_steps": 1, "warmup": 0, "checkpoint": False}
    first, second = probe(tmp_path, "act", overrides=TINY_ACT, **shortest)["training"]
    assert first["samples_per_s"] > 0
    assert second["error"] == "out of memory"


def test_what_a_policy_raises_is_its_result(tmp_path, monkeypatch):
    left, alarms = [], []
    monkeypatch.setattr(worker.os, "_exit", left.append)
    monkeypatch.setattr(worker.signal, "alarm", alarms.append)
    worker.main(WorkerConfig(policy="act+compile", out=tmp_path / "out.json", timeout_s=90))
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["stage"], figures["failed"]) == ("build", "ValueError: act has no setting for +compile")
    assert (left, alarms) == ([0], [90])


def test_inputs_follow_the_policy():
    config = build("act", "cpu", "float32", None, TINY_ACT).policy.config
    batch = raw_batch(config, 3)
    assert batch["action"].shape == (3, 12, ACTION_DIM)
    assert batch[CAMERAS[0]].shape == (3, 3, 256, 256)
    observation = raw_observation()
    assert observation[CAMERAS[1]].shape == (256, 256, 3)
    assert observation[CAMERAS[1]].dtype.name == "uint8"


def test_a_lack_of_memory_is_told_from_other_errors():
    assert out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not out_of_memory(RuntimeError("shape"))
