"""Compiling the action path changes its speed and nothing else."""

import copy

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.weights import backbones
from tests.conftest import tiny_config
from tests.helpers import landmark_policies, released
from tests.helpers.landmark_policies import SETTINGS


def compiled_and_plain(**overrides) -> tuple[AtlasVLAPolicy, AtlasVLAPolicy]:
    torch.manual_seed(0)
    plain = AtlasVLAPolicy(tiny_config(**overrides))
    released.open_gates(plain)
    if plain.model.landmarks is not None:
        landmark_policies.started(plain)
    compiled = AtlasVLAPolicy(tiny_config(compile_model=True, **overrides))
    compiled.load_state_dict(plain.state_dict())
    return compiled, plain


@pytest.fixture
def graphs(monkeypatch):
    """Counts graphs that are handed to the compiler, and runs them as they are: quick, and shapes still count."""
    seen = []

    def count(graph, example_inputs):
        seen.append(graph)
        return graph.forward

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: original(self, backend=count))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield seen
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "overrides",
    [{"head": "l1"}, {"head": "flow"}, {"vision": "da3", "image_size": (28, 42)}, SETTINGS],
    ids=["l1", "flow", "da3", "landmarks"],
)
def test_same_actions(graphs, overrides):
    compiled, plain = compiled_and_plain(**overrides)
    batch = released.preprocessed(plain.config)
    noise = torch.randn(3, 10, 7)
    counts = []
    # Looks of one episode: nothing is compiled again.
    for scene in (batch, batch, released.preprocessed(plain.config, seed=1)):
        torch.testing.assert_close(
            compiled.predict_action_chunk(scene, noise=noise), plain.predict_action_chunk(scene, noise=noise)
        )
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
    # Landmarks are cut where the cameras' poses are averaged, which nobody compiles; nothing else is a break.
    breaks = list(torch._dynamo.utils.counters["graph_break"])
    assert [reason for reason in breaks if "torch.compiler.disable" not in reason] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"fusion": "early"},
        {"vision": "dinov2", "vision_tower_init": "random", "image_size": (28, 28)},
        {"vision": "da3", "image_size": (28, 42)},
    ],
    ids=["vggt", "early", "dinov2", "da3"],
)
def test_frozen_backbones_and_what_learns_are_one_graph(graphs, monkeypatch, overrides, dtype):
    """Between two graphs everything is launched from Python, operation by operation, and no GPU graph spans it."""
    monkeypatch.setattr(backbones, "DINOV2_BASE", released.SMALL_DINOV2)
    frozen = {f"freeze_{part}": True for part in ("vggt", "da3", "language", "vision_tower")}
    policy = AtlasVLAPolicy(tiny_config(compile_model=True, dtype=dtype, **frozen, **overrides))
    batch = released.preprocessed(policy.config)
    policy.predict_action_chunk(batch)
    policy.predict_action_chunk(batch)
    assert len(graphs) == 1


def test_instructions_of_other_lengths_are_not_compiled_again(graphs):
    compiled, plain = compiled_and_plain()
    counts = []
    for text in ("put", "put it on the plate", "put the black bowl on the plate, then open the drawer"):
        batch = released.preprocessed(plain.config, text, text)
        torch.testing.assert_close(compiled.predict_action_chunk(batch), plain.predict_action_chunk(batch))
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


def test_lerobots_rollout_does_not_compile_a_second_time(graphs):
    """It wraps predict_action_chunk in torch.compile after it has set compile_model."""
    compiled, plain = compiled_and_plain()
    batch = released.preprocessed(plain.config)
    compiled.predict_action_chunk(batch)
    before = len(graphs)
    outer = []
    compiled.predict_action_chunk = torch.compile(
        compiled.predict_action_chunk, backend=lambda graph, _: outer.append(graph) or graph.forward
    )
    torch.testing.assert_close(compiled.select_action(batch), plain.select_action(batch))
    assert outer == []
    assert len(graphs) == before


def test_training_and_copies_still_work(graphs):
    compiled, plain = compiled_and_plain()
    batch = released.preprocessed(plain.config)
    with torch.inference_mode():
        compiled.select_action(batch)
    compiled.train()
    compiled(batch)[0].backward()
    twin = copy.deepcopy(compiled)
    torch.testing.assert_close(twin.predict_action_chunk(batch), plain.predict_action_chunk(batch))


@pytest.mark.slow
def test_same_actions_through_the_real_compiler():
    compiled, plain = compiled_and_plain()
    batch = released.preprocessed(plain.config)
    torch.testing.assert_close(
        compiled.predict_action_chunk(batch), plain.predict_action_chunk(batch), rtol=1e-4, atol=1e-5
    )
