"""What the action path does not do: constants again, blocks nobody reads, walks through all parameters, gradients."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.model.frozen import freeze, frozen_forward, is_frozen, parameters_of
from lerobot_atlasvla.model.geometry import backbone, vggt
from lerobot_atlasvla.model.layers import apply_rope, rope_2d_tables
from tests.conftest import tiny_config
from tests.helpers.released import open_gates, preprocessed, released_policy, write_vggt


class Operations(TorchDispatchMode):
    """Names of the operations that run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


# --- constants ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sign_in_the_table_changes_no_bit(dtype):
    positions = torch.randint(0, 17, (12, 2))
    x = torch.randn(2, 3, 12, 16).to(dtype)
    exponents = torch.arange(0, 8, 2, dtype=torch.float32) / 8
    angles = (positions[:, :, None].float() * 100.0**-exponents).repeat(1, 1, 2).flatten(1)
    pairs = x.unflatten(-1, (2, 2, -1))
    rotated = torch.stack((-pairs[..., 1, :], pairs[..., 0, :]), dim=-2).flatten(-3)
    expected = (x * angles.cos() + rotated * angles.sin()).to(dtype)
    assert torch.equal(apply_rope(x, rope_2d_tables(positions, 16)), expected)


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_remembered_tables_change_no_bit_and_are_made_once(root, fusion, monkeypatch):
    policy = released_policy(root, fusion=fusion)
    open_gates(policy)
    batch = preprocessed(policy.config)
    made = []
    make = vggt._make_tables
    monkeypatch.setattr(vggt, "_make_tables", lambda *args: made.append(args) or make(*args))
    backbone.remembered_tables.cache_clear()
    with torch.inference_mode():
        first = policy.predict_action_chunk(batch)
    assert torch.equal(policy.predict_action_chunk(batch), first)
    policy.train()
    policy(batch)[0].backward()
    assert len(made) == 1
    monkeypatch.setattr(vggt, "rope_tables", lambda _, *arguments: make(*arguments))
    assert torch.equal(policy.predict_action_chunk(batch), first)


def test_tables_stay_float32_and_out_of_checkpoints(root):
    policy = released_policy(root)
    names = set(policy.state_dict())
    policy.predict_action_chunk(preprocessed(policy.config))
    policy.to(torch.bfloat16)
    assert set(policy.state_dict()) == names
    layout = vggt.TokenLayout(5, 4, 4, 0)
    frame, scene = backbone.rope_tables(vggt._make_tables, layout, 2, 16, torch.device("cpu"))
    assert {table.dtype for table in (*frame, *scene)} == {torch.float32}
    assert torch.equal(scene.cos_PK, frame.cos_PK.repeat(2, 1))


def test_a_warm_chunk_makes_no_positions(root):
    policy = released_policy(root)
    batch = preprocessed(policy.config)
    policy.predict_action_chunk(batch)
    with Operations() as seen:
        policy.predict_action_chunk(batch)
    assert {"aten::cos", "aten::sin", "aten::pow"}.isdisjoint(seen.names)


# --- blocks ---


def test_blocks_above_the_highest_layer_read_are_not_run(tmp_path, root):
    write_vggt(tmp_path / "deep", depth=4)
    deep = {"vggt_model": str(tmp_path / "deep"), "vggt_output_layers": (0, 1)}
    whole = released_policy(root, vggt_depth=4, **deep)
    short = released_policy(root, vggt_depth=2, **deep)
    batch = preprocessed(whole.config)
    for policy in (whole, short):
        open_gates(policy)
    short.load_state_dict({n: t for n, t in whole.state_dict().items() if n in short.state_dict()})
    calls = []
    for blocks in (whole.model.aggregator.frame_blocks, whole.model.aggregator.global_blocks):
        for index, block in enumerate(blocks):
            block.register_forward_hook(lambda *_, index=index: calls.append(index))
    full = whole.predict_action_chunk(batch)
    assert calls == [0, 0, 1, 1]
    assert len(short.model.aggregator.frame_blocks) == len(short.model.aggregator.global_blocks) == 2
    assert torch.equal(short.predict_action_chunk(batch), full)


# --- who is frozen ---


def test_the_list_of_parameters_follows_every_change():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2)))

    def check():
        assert [id(p) for p in parameters_of(module)] == [id(p) for p in module.parameters()]

    check()
    module[1][0].register_parameter("adapter", torch.nn.Parameter(torch.zeros(1)))
    check()
    module[1].append(torch.nn.Identity())
    check()
    module[1][1] = torch.nn.Linear(2, 3)
    check()
    module[0].weight = torch.nn.Parameter(torch.zeros(2, 2))
    check()
    del module[1][0].adapter
    check()
    module[0].bias = None
    check()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert [id(p) for p in parameters_of(twin)] == [id(p) for p in twin.parameters()]
        assert not {id(p) for p in parameters_of(twin)} & {id(p) for p in parameters_of(module)}


def test_a_part_is_frozen_as_long_as_nothing_in_it_learns():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert not is_frozen(module)
    freeze(module)
    assert is_frozen(module)
    module[1].bias.requires_grad_(True)
    assert not is_frozen(module)
    module[1].bias.requires_grad_(False)
    assert is_frozen(module)


def test_autocast_stays_off_in_a_frozen_part_without_a_graph_too():
    module = torch.nn.Linear(2, 2)
    x = torch.ones(1, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with frozen_forward(module, x):
            assert module(x).dtype == torch.bfloat16
        freeze(module)
        with frozen_forward(module, x):
            assert module(x).dtype == torch.float32


# --- modes and the queue ---


def test_predicting_sets_the_mode_once(policy, batch, monkeypatch):
    policy.train()
    calls = []
    train = AtlasVLAPolicy.train
    monkeypatch.setattr(AtlasVLAPolicy, "train", lambda self, mode=True: calls.append(mode) or train(self, mode))
    for _ in range(3):
        policy.predict_action_chunk(batch)
    assert calls == [False]
    assert not any(module.training for module in policy.modules())


def test_between_chunks_there_is_nothing_but_the_queue():
    policy = AtlasVLAPolicy(tiny_config(n_action_steps=4))
    batch = preprocessed(policy.config)
    runs = []
    policy.model.decoder.register_forward_hook(lambda *_: runs.append(1))
    for step in range(12):
        with Operations() as seen:
            policy.select_action(batch)
        assert len(runs) == step // 4 + 1
        if step % 4:
            assert seen.names == []
