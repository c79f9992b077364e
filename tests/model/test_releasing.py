"""The frozen language model in training: gone while nobody needs it, the same bit for bit when somebody does."""

import copy
import pickle
import shutil

import pytest
import torch
import torch.distributed as dist

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.weights.download import WeightsError
from tests.helpers.released import preprocessed, released_config, released_policy, tiny_policy, write_qwen3

DRAWER, DOOR, STOVE = "open the drawer", "close the door", "turn on the stove"


def train(policy: AtlasVLAPolicy, *batches: tuple[str, ...], config: AtlasVLAConfig | None = None) -> list[float]:
    """Losses of one step per batch of instructions; ``config`` names another tokenizer."""
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
    losses = []
    for number, tasks in enumerate(batches):
        policy.train()
        loss, _ = policy.forward(preprocessed(config or policy.config, *tasks, seed=number))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def released(policy: AtlasVLAPolicy) -> bool:
    gone = {parameter.is_meta for parameter in policy.model.language.parameters()}
    assert len(gone) == 1
    assert gone == {policy.model.language.releasable.released}
    return gone.pop()


def weights(policy: AtlasVLAPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("settings", [{}, {"language_on_cpu": True}, {"backbone_dtype": "bfloat16"}, {"vision": "da3"}])
def test_training_is_the_same_bit_for_bit(root, settings):
    batches = [(DRAWER,), (DRAWER,), (DRAWER, DOOR), (DOOR,), (DOOR, DRAWER), (STOVE, DOOR), (DRAWER,)]
    policy, keeping = (released_policy(root, **settings) for _ in range(2))
    keeping.model.language.releasable = None
    assert train(policy, *batches) == train(keeping, *batches)
    assert same(weights(policy), weights(keeping))


def test_it_goes_with_the_first_batch_that_brings_nothing_new_and_comes_back_for_one_that_does(root):
    policy = released_policy(root)
    train(policy, (DRAWER,))
    assert not released(policy)
    train(policy, (DRAWER, DRAWER))
    assert released(policy)
    train(policy, (DRAWER, DOOR))
    assert not released(policy)
    # It was too early once, so now it takes two such batches.
    train(policy, (DOOR,))
    assert not released(policy)
    train(policy, (DRAWER,))
    assert released(policy)


def test_acting_lets_go_of_nothing_and_may_need_it(root):
    policy = released_policy(root)
    policy.eval()
    for _ in range(3):
        policy.predict_action_chunk(preprocessed(policy.config, DRAWER))
    assert not released(policy)
    train(policy, (DRAWER,))
    assert released(policy)
    expected = released_policy(root)
    expected.load_state_dict(weights(policy))
    train(policy, (DRAWER,))
    expected.load_state_dict(weights(policy))
    batch = preprocessed(policy.config, STOVE)
    assert torch.equal(policy.predict_action_chunk(dict(batch)), expected.predict_action_chunk(dict(batch)))


def test_training_goes_on_after_a_rollout_in_inference_mode_needed_it(root):
    policy, keeping = released_policy(root), released_policy(root)
    keeping.model.language.releasable = None
    for one in (policy, keeping):
        train(one, (DRAWER,), (DRAWER,))
        with torch.inference_mode():
            one.predict_action_chunk(preprocessed(one.config, STOVE))
    assert not released(policy)
    assert not any(parameter.is_inference() for parameter in policy.parameters())
    assert train(policy, (STOVE, DOOR)) == train(keeping, (STOVE, DOOR))


@pytest.mark.parametrize("whole", [False, True])
def test_a_checkpoint_is_the_same_and_the_weights_go_again(root, tmp_path, whole):
    policy, keeping = (released_policy(root, save_full_weights=whole) for _ in range(2))
    keeping.model.language.releasable = None
    for one, folder in ((policy, "a"), (keeping, "b")):
        train(one, (DRAWER,), (DRAWER,))
        one.save_pretrained(tmp_path / folder)
    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in "ab"]
    assert files[0] == files[1]
    train(policy, (DRAWER,))
    assert released(policy)
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "a")
    train(loaded, (DRAWER,), (DRAWER,))
    # What the checkpoint holds need not be what the source gives.
    assert released(loaded) is not whole


def test_a_new_instruction_without_the_source_is_an_error_that_names_it(tmp_path, root):
    source = tmp_path / "qwen3"
    shutil.copytree(root / "qwen3", source)
    policy = released_policy(root, language_model=str(source))
    train(policy, (DRAWER,), (DRAWER,))
    moved, elsewhere = source.rename(tmp_path / "elsewhere"), released_config(root)
    train(policy, (DRAWER,), config=elsewhere)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"--policy\.language_model"):
            train(policy, (DOOR,), config=elsewhere)
        assert released(policy)
    moved.rename(source)
    train(policy, (DOOR,))
    assert not released(policy)


def test_other_weights_in_the_source_are_refused(tmp_path, root):
    source = tmp_path / "qwen3"
    shutil.copytree(root / "qwen3", source)
    policy = released_policy(root, language_model=str(source))
    train(policy, (DRAWER,), (DRAWER,))
    shutil.rmtree(source)
    write_qwen3(source, seed=11)
    with pytest.raises(WeightsError, match=r"not the ones this checkpoint was made with.*--policy\.language_model"):
        train(policy, (DOOR,))


def test_weights_that_were_changed_stay(root):
    policy = released_policy(root)
    with torch.no_grad():
        next(policy.model.language.parameters()).add_(0.1)
    train(policy, *[(DRAWER,)] * 4)
    assert not released(policy)


@pytest.mark.parametrize("settings", [{"freeze_language": False}, {"language_init": "random"}, {"views": ("none",)}])
def test_what_learns_or_has_no_source_stays(root, settings):
    policy = released_policy(root, **settings)
    train(policy, *[(DRAWER,)] * 3)
    assert policy.model.language.releasable is None
    assert not any(parameter.is_meta for parameter in policy.parameters())
    assert tiny_policy().model.language.releasable is None


def test_whoever_moves_copies_or_fills_the_policy_finds_the_weights(root):
    policy, reference = released_policy(root), released_policy(root)
    before = weights(reference)
    language = [name for name in before if ".language.backbone." in name]

    def gone() -> AtlasVLAPolicy:
        train(policy, (DRAWER,), (DRAWER,))
        assert released(policy)
        return policy

    twin = copy.deepcopy(gone())
    assert released(twin)
    for one in (gone().to("cpu"), gone().double().float(), twin, pickle.loads(pickle.dumps(gone()))):
        state = one.state_dict()
        assert all(torch.equal(state[name], before[name]) for name in language)
    gone().load_state_dict(before)
    assert same(weights(policy), before)


def test_a_loss_that_is_not_finite_is_still_explained(root):
    policy = released_policy(root)
    train(policy, (DRAWER,), (DRAWER,))
    assert released(policy)
    with torch.no_grad():
        policy.model.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the weights model\.decoder\."):
        train(policy, (DRAWER,))


def test_several_processes_keep_it(root, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        policy = released_policy(root)
        train(policy, *[(DRAWER,)] * 3)
        assert not released(policy)
    finally:
        dist.destroy_process_group()
