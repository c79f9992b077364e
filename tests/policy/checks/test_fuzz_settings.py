"""Every setting with hostile, extreme and wrong values: a policy that computes, or one sentence that names the setting.

Seeded, so that a failure comes back. Memory is bounded by what a policy may believe to have.
"""

import dataclasses
import json
import math
import random
import re
from pathlib import Path

import draccus
import pytest
from draccus.utils import DraccusException
from lerobot.configs.policies import PreTrainedConfig

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.model.sizes import memory
from tests.conftest import tiny_config

# What a policy may take here; the largest allowed settings alone come to much more.
MEMORY = 64 * 2**20
# Settings that say what a policy reads come from the data; the tests of its features are elsewhere.
FIELDS = [field for field in dataclasses.fields(AtlasVLAConfig) if field.init]
# Settings that a policy is built from, and with which it computes.
BUILT = ("vision", "vggt_", "language_", "decoder", "num_", "condition", "summary", "head", "flow", "chunk", "fusion")
SCALARS: tuple = (
    *(None, True, False, "", "x", "nan", "10", "true", "../..", "x" * 10_000, "\x00", "[1]"),
    *(0, 1, -1, 2, 3, 7, 8, 64, 10**4, 10**9, 2**63, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1e-45, 1e-300, -0.1, 2.5, 1e308, math.nan, math.inf, -math.inf),
)


def hostile_values(field: dataclasses.Field, rng: random.Random) -> list:
    """Scalars of every type, and containers of them."""
    pairs = [tuple(rng.choices(SCALARS, k=2)) for _ in range(6)]
    near = tiny_config().__dict__[field.name]
    repeated = [near * 2, near[:-1], list(near) * 100] if isinstance(near, tuple) else [[near], {"x": near}]
    return [*SCALARS, (), [], {}, {"a": 1}, {1: 2}, b"x", object(), *pairs, *map(list, pairs), *repeated]


def refusal(make) -> str | None:
    """Return the message of an expected error; any other error is a fault of the code."""
    try:
        make()
    except (ValueError, DraccusException) as error:
        return str(error)
    return None


@pytest.fixture
def bounded(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: MEMORY)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the tests before
    before = peak_bytes()
    yield
    assert peak_bytes() - before < 20 * MEMORY


def peak_bytes() -> int:
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


def check_sentence(message: str, name: str) -> None:
    assert name in message or f"--policy.{name}" in message, f"does not name {name}: {message}"
    assert len(message) < 700, message
    assert "\n" not in message


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_setting_works_or_is_refused_by_name(field, bounded):
    for value in hostile_values(field, random.Random(field.name)):
        made: list[AtlasVLAConfig] = []
        message = refusal(lambda value=value, made=made: made.append(tiny_config(**{field.name: value})))
        if message is not None:
            check_sentence(message, field.name)
            continue
        optimizer = made[0].get_optimizer_preset()
        assert 0 <= optimizer.weight_decay < math.inf
        assert 0 < optimizer.lr < 1
        if field.name.startswith(BUILT) and field.name not in ("vision_tower", "language_model", "vggt_model"):
            message = refusal(lambda made=made: AtlasVLAPolicy(made[0]))
            assert message is None or any(part in message for part in ("hf download", "GB", "is no file")), message


def test_whole_configurations_at_random(bounded, batch):
    """Several settings at once: what is accepted computes a finite action."""
    rng = random.Random(20)
    choices = {
        "chunk_size": [1, 2, 10, 33],
        "n_action_steps": [1, 2, 10, 50],
        "vggt_depth": [1, 2, 5],
        "vggt_output_layers": [(0,), (0, 1), (1, 4), (4,)],
        "vggt_embed_dim": [8, 32, 40, 1024],
        "vggt_num_heads": [1, 2, 5],
        "vggt_patch_embed": ["conv", "conv_stem", "dinov2_vits14_reg"],
        "vggt_patch_size": [2, 4, 7, 8, 16],
        "vggt_num_register_tokens": [1, 9],
        "vggt_layer_scale_init": [1e-9, 1.0, 10.0],
        "vggt_blocks": ["normal", "frozen", "removed"],
        "image_size": [(32, 32), (16, 64), (14, 28), (2, 2), (224, 224)],
        "vision": ["vggt", "patch"],
        "vision_patch_size": [4, 16, 5],
        "vision_patch_dim": [1, 30],
        "fusion": ["late", "early"],
        "head": ["l1", "flow"],
        "decoder_hidden_size": [2, 30, 32],
        "decoder_num_heads": [1, 2, 15],
        "num_action_queries": [0, 1, 40],
        "query_conditioning": ["keypoints", "landmarks", "only_landmarks", "none"],
        "use_state": [True, False],
        "views": [(), ("none",), ("observation.images.image",)],
        "language_hidden_size": [2, 16, 48],
        "language_num_heads": [1, 2, 3],
        "summary_keypoints": [1, 50],
        "flow_num_steps": [1, 3],
        "dtype": ["float32", "bfloat16"],
    }
    computed = 0
    for _ in range(150):
        names = rng.sample(sorted(choices), 6)
        settings = {name: rng.choice(choices[name]) for name in names}
        made: list[AtlasVLAPolicy] = []
        message = refusal(lambda s=settings, made=made: made.append(AtlasVLAPolicy(tiny_config(**s))))
        if message is None:
            (policy,) = made
            chunk = policy.predict_action_chunk(batch)
            assert chunk.shape == (3, policy.config.chunk_size, 7), settings
            assert chunk.isfinite().all(), settings
            computed += 1
        else:
            assert any(name in message for name in (*names, *settings)), (message, settings)
    assert computed > 20


def test_a_file_with_any_value_works_or_is_refused(tmp_path, bounded):
    """The same through JSON, as a checkpoint's config.json is read; of LeRobot's reader only some, for it is slow."""
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    kind, rng = content.pop("type"), random.Random(7)
    values = [*SCALARS, [], {}, [1, 2], ["a"], {"a": 1}, [[1]], [None], {"STATE": "MEAN_STD"}]
    for name in content:
        for value in rng.sample(values, 20):
            message = refusal(lambda name=name, value=value: draccus.decode(AtlasVLAConfig, content | {name: value}))
            assert message is None or name in message, (name, value, message)
        if rng.random() < 0.1:
            file.write_text(json.dumps(content | {"type": kind, name: rng.choice(values)}))
            message = refusal(lambda: PreTrainedConfig.from_pretrained(tmp_path))
            assert message is None or name in message, (name, message)
