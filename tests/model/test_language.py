"""The instruction encoder: once per instruction while it is frozen, the right features always."""

import copy

import pytest
import torch
from transformers import Qwen2Model, Qwen3Model

from lerobot_atlasvla.model.language import LanguageEncoder, small_qwen3
from tests.helpers.released import open_gates, preprocessed, released_policy, write_qwen2

MASK = "observation.language.attention_mask"
ROWS = ([5, 6, 7, 8], [9, 10], [11], [])


def make_encoder(*, frozen: bool = True, cache_size: int = 16) -> LanguageEncoder:
    torch.manual_seed(0)
    sizes = small_qwen3(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, max_length=32)
    encoder = LanguageEncoder(sizes, cache_size=cache_size).eval()
    # Qwen starts with weights so small that rounding would hide what they do.
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    encoder.requires_grad_(not frozen)
    return encoder


def padded(*rows: list[int], width: int = 0, fill: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(width, *map(len, rows))
    tokens = [row + [fill] * (width - len(row)) for row in rows]
    mask = [[True] * len(row) + [False] * (width - len(row)) for row in rows]
    return torch.tensor(tokens, dtype=torch.long).view(len(rows), width), torch.tensor(mask, dtype=torch.bool).view(
        len(rows), width
    )


def counted(encoder: LanguageEncoder) -> list[int]:
    """Grows by the number of rows whenever the model runs."""
    calls: list[int] = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return calls


# --- what comes out ---


@pytest.mark.parametrize("frozen", [True, False])
def test_features_are_those_of_the_model_alone_and_padding_is_zero(frozen):
    encoder = make_encoder(frozen=frozen)
    group = encoder(*padded(*ROWS, width=6, fill=3))
    assert group.tokens_BSD.shape == (4, 6, 16)
    for index, row in enumerate(ROWS):
        features = group.tokens_BSD[index]
        assert not features[len(row) :].any()
        assert group.mask_BS[index].sum() == max(1, len(row))
        if row:
            expected = encoder.backbone(input_ids=torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(features[: len(row)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [4, 5, 9, 30])
@pytest.mark.parametrize("fill", [0, 49])
def test_neither_padding_nor_company_changes_a_bit_of_an_instruction(width, fill):
    together = make_encoder()(*padded(*ROWS, [12, 13, 14], width=width, fill=fill)).tokens_BSD
    for index, row in enumerate(ROWS):
        alone = make_encoder()(*padded(row)).tokens_BSD[0, : len(row)]
        assert torch.equal(together[index, : len(row)], alone)


def test_order_and_repetition_in_a_batch_do_not_matter():
    encoder = make_encoder()
    rows = [ROWS[0], ROWS[1], ROWS[0], ROWS[2], ROWS[1]]
    features = encoder(*padded(*rows)).tokens_BSD
    assert torch.equal(features[0], features[2])
    assert torch.equal(features[1], features[4])
    assert not torch.equal(features[0, :1], features[3, :1])


def test_an_empty_instruction_is_one_zero_token():
    for frozen in (True, False):
        group = make_encoder(frozen=frozen)(*padded([], []))
        assert group.tokens_BSD.shape == (2, 1, 16)
        assert not group.tokens_BSD.any()
        assert group.mask_BS.tolist() == [[True], [True]]


def test_who_asks_first_under_autocast_leaves_nothing_rounded_behind():
    expected = make_encoder()(*padded(*ROWS)).tokens_BSD
    encoder = make_encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(*padded(*ROWS))
    assert torch.equal(encoder(*padded(*ROWS)).tokens_BSD, expected)


# --- what is remembered ---


def test_a_frozen_model_runs_once_per_distinct_instruction():
    encoder = make_encoder()
    calls = counted(encoder)
    encoder(*padded(ROWS[0], ROWS[0], ROWS[1]))
    assert calls == [1, 1]
    encoder(*padded(ROWS[1], ROWS[0], width=20, fill=7))
    assert calls == [1, 1]
    encoder(*padded(ROWS[2]))
    assert calls == [1, 1, 1]


def test_the_memory_is_bounded_and_the_least_recently_used_goes_first():
    encoder = make_encoder(cache_size=2)
    calls = counted(encoder)
    for row, runs in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4), (0, 4), (2, 5)):
        encoder(*padded(ROWS[row]))
        assert len(calls) == runs, row
        assert len(encoder._cache) <= 2


def test_a_batch_may_hold_more_instructions_than_are_remembered():
    rows = [[index, index + 1] for index in range(8)]
    expected = make_encoder()(*padded(*rows)).tokens_BSD
    encoder = make_encoder(cache_size=1)
    assert torch.equal(encoder(*padded(*rows)).tokens_BSD, expected)
    assert len(encoder._cache) == 1


def load_other_weights(encoder):
    other = copy.deepcopy(encoder)
    torch.nn.init.normal_(other.backbone.layers[1].mlp.up_proj.weight)
    encoder.load_state_dict(other.state_dict())


def assign_other_weights(encoder):
    weights = {name: tensor * 1.5 for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(weights, assign=True)


def change_one_number(encoder):
    with torch.no_grad():
        encoder.backbone.layers[0].mlp.down_proj.weight[0, 0] += 1


def replace_one_weight(encoder):
    norm = encoder.backbone.norm
    norm.weight = torch.nn.Parameter(norm.weight.detach() * 2, requires_grad=False)


def replace_data(encoder):
    encoder.backbone.norm.weight.data = encoder.backbone.norm.weight.data * 2


def cast(encoder):
    encoder.to(torch.bfloat16)


def cast_the_model_itself(encoder):
    encoder.backbone.to(torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        load_other_weights,
        assign_other_weights,
        change_one_number,
        replace_one_weight,
        replace_data,
        cast,
        cast_the_model_itself,
    ],
)
@pytest.mark.parametrize("inference_mode", [False, True])
def test_everything_is_forgotten_when_a_weight_changes(change, inference_mode):
    encoder = make_encoder()
    with torch.inference_mode(inference_mode):
        before = encoder(*padded(*ROWS)).tokens_BSD
    change(encoder)
    after = encoder(*padded(*ROWS)).tokens_BSD
    assert not torch.equal(after, before)
    encoder._cache.clear()
    assert torch.equal(encoder(*padded(*ROWS)).tokens_BSD, after)


def test_a_copy_remembers_for_itself():
    encoder = make_encoder()
    before = encoder(*padded(*ROWS)).tokens_BSD
    other = copy.deepcopy(encoder)
    change_one_number(other)
    assert not torch.equal(other(*padded(*ROWS)).tokens_BSD, before)
    assert torch.equal(encoder(*padded(*ROWS)).tokens_BSD, before)


def test_what_a_caller_does_to_the_features_stays_with_the_caller():
    encoder = make_encoder()
    first = encoder(*padded(ROWS[0])).tokens_BSD
    expected = first.clone()
    first.mul_(0)
    assert torch.equal(encoder(*padded(ROWS[0])).tokens_BSD, expected)


def test_a_model_that_learns_remembers_nothing_and_encodes_each_instruction_once_per_batch():
    encoder = make_encoder(frozen=False)
    calls = counted(encoder)
    batch = padded(ROWS[0], ROWS[1], ROWS[0], ROWS[1], ROWS[0])
    for _ in range(2):
        group = encoder(*batch)
    assert calls == [2, 2]
    assert not encoder._cache
    group.tokens_BSD.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
    change_one_number(encoder)
    assert not torch.equal(encoder(*batch).tokens_BSD, group.tokens_BSD)


def test_memory_ends_when_the_model_starts_to_learn_and_begins_again_after():
    encoder = make_encoder()
    encoder(*padded(*ROWS))
    encoder.requires_grad_(True)
    group = encoder(*padded(*ROWS))
    assert group.tokens_BSD.requires_grad
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    group.tokens_BSD.square().sum().backward()
    optimizer.step()
    encoder.requires_grad_(False)
    after = encoder(*padded(*ROWS)).tokens_BSD
    assert not torch.allclose(after, group.tokens_BSD)
    assert not after.requires_grad


def test_the_type_of_model_follows_its_config(root, tmp_path):
    assert type(released_policy(root).model.language.backbone) is Qwen3Model
    qwen2 = released_policy(root, language_model=str(write_qwen2(tmp_path / "qwen2")))
    assert type(qwen2.model.language.backbone) is Qwen2Model


# --- within the policy ---


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_rollout_and_then_a_training_step_work_in_one_process(root, fusion, mode):
    policy = released_policy(root, fusion=fusion)
    open_gates(policy)
    batch = preprocessed(policy.config)
    calls = counted(policy.model.language)
    with mode():
        policy.select_action(batch)
    policy.train()
    policy(batch)[0].backward()
    assert len(calls) == 1
    rolled_out = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    fresh = released_policy(root, fusion=fusion)
    open_gates(fresh)
    fresh.train()
    fresh(batch)[0].backward()
    for name, parameter in fresh.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, rolled_out[name]), name


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("freeze", [True, False])
def test_an_empty_instruction_works_alone_and_in_company(root, fusion, freeze):
    policy = released_policy(root, fusion=fusion, freeze_language=freeze)
    open_gates(policy)
    alone = preprocessed(policy.config, "", "")
    mixed = preprocessed(policy.config, "", "open the drawer")
    assert torch.equal(alone["observation.state"], mixed["observation.state"])
    assert not alone[MASK].any()
    first, second = policy.predict_action_chunk(alone), policy.predict_action_chunk(mixed)
    assert first.isfinite().all()
    torch.testing.assert_close(second[0], first[0], rtol=1e-4, atol=1e-5)
    assert (second[1] - first[1]).abs().max() > 1e-4
    policy.train()
    for batch in (alone, mixed):
        policy.zero_grad()
        loss, _ = policy(batch)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("freeze", [True, False])
def test_words_matter_and_so_does_their_order(root, fusion, freeze):
    policy = released_policy(root, fusion=fusion, freeze_language=freeze)
    open_gates(policy)
    chunks = [policy.predict_action_chunk(preprocessed(policy.config, task)) for task in ("ab", "ba", "abc", "ab")]
    assert torch.equal(chunks[0], chunks[3])
    for other in (1, 2):
        assert (chunks[other] - chunks[0]).abs().max() > 1e-5
