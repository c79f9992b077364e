"""What LeRobot relies on when it calls the policy: queues, noise, batches left alone, learning rates by group."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, PIXELS, STATE, WRIST, raw_batch, tiny_config
from tests.helpers.released import preprocessed, released_policy, tiny_policy

STEPS = 4
WORDS = "observation.language.tokens"


def noise(size: int = 3) -> torch.Tensor:
    return torch.randn(size, CHUNK, ACTION_DIM, generator=torch.Generator().manual_seed(5))


def tensors_of(batch: dict) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


# --- the queue ---


@pytest.fixture
def policy():
    return tiny_policy(n_action_steps=STEPS)


@pytest.fixture(scope="module")
def scenes():
    return [preprocessed(tiny_config(), seed=seed) for seed in range(6)]


def in_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_threads_that_share_a_policy_execute_their_own_chunks(policy, scenes):
    chunks = [policy.predict_action_chunk(scene) for scene in scenes]
    turn = threading.Barrier(2, timeout=600)

    def episode(mine: list[int]) -> list[torch.Tensor]:
        policy.reset()
        executed = []
        for step in range(STEPS * len(mine)):
            turn.wait()
            executed.append(policy.select_action(scenes[mine[step // STEPS]]))
        return executed

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(episode, mine) for mine in ([0, 1, 2], [3, 4, 5])]
        executed = [action for result in results for action in result.result()]
    expected = [chunk[:, step] for chunk in chunks for step in range(STEPS)]
    torch.testing.assert_close(torch.stack(executed), torch.stack(expected))


def test_a_reset_in_one_thread_leaves_the_queues_of_others(policy, scenes):
    first, second = (policy.predict_action_chunk(scene) for scene in scenes[:2])
    policy.select_action(scenes[0])
    in_thread(lambda: (policy.select_action(scenes[1]), policy.reset()))
    torch.testing.assert_close(policy.select_action(scenes[1]), first[:, 1])
    policy.reset()
    torch.testing.assert_close(policy.select_action(scenes[1]), second[:, 0])


def test_a_thread_needs_no_reset_before_its_first_action(policy, scenes):
    expected = policy.predict_action_chunk(scenes[0])[:, 0]
    torch.testing.assert_close(in_thread(lambda: policy.select_action(scenes[0])), expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_copies_start_with_empty_queues_and_share_nothing(policy, scenes, duplicate):
    chunks = [policy.predict_action_chunk(scene) for scene in scenes[:2]]
    policy.select_action(scenes[0])
    other = duplicate(policy)
    torch.testing.assert_close(other.select_action(scenes[1]), chunks[1][:, 0])
    torch.testing.assert_close(policy.select_action(scenes[1]), chunks[0][:, 1])


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (3, 1)])
def test_another_number_of_environments_gets_no_queued_action_of_the_others(policy, scenes, caplog, before, after):
    """Nobody called ``reset()``; the environments that are left have other places in the batch."""
    first = {key: value[:before] for key, value in tensors_of(scenes[0]).items()}
    now = {key: value[-after:] for key, value in tensors_of(scenes[1]).items()}
    chunk = policy.predict_action_chunk(now)
    policy.select_action(first)
    caplog.clear()
    for step in range(STEPS):
        torch.testing.assert_close(policy.select_action(now), chunk[:, step])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"got {after} environments after {before}" in caplog.text


def test_clearing_the_queues_drops_what_was_planned(policy, scenes):
    """As newer LeRobot does before it rolls out with another inference engine: through ``_queues``."""
    policy.select_action(scenes[0])
    for queue in policy._queues.values():
        queue.clear()
    torch.testing.assert_close(policy.select_action(scenes[1]), policy.predict_action_chunk(scenes[1])[:, 0])


@pytest.mark.parametrize("head", ["l1", "flow"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_action_is_float32_and_ready_for_numpy(scenes, head, dtype):
    policy = tiny_policy(head=head, dtype=dtype)
    with torch.inference_mode():
        action = policy.select_action(scenes[0])
    assert action.dtype == torch.float32
    assert action.numpy().shape == (3, ACTION_DIM)


# --- a chunk ---


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_a_chunk_is_predicted_without_a_graph_and_by_the_noise_alone(scenes, head):
    policy = tiny_policy(head=head).train()
    assert torch.is_grad_enabled()
    chunk = policy.predict_action_chunk(scenes[0], noise=noise())
    assert chunk.shape == (3, CHUNK, ACTION_DIM)
    assert not chunk.requires_grad
    torch.manual_seed(123)
    assert torch.equal(policy.predict_action_chunk(scenes[0], noise=noise()), chunk)


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_no_call_changes_the_batch(scenes, head):
    policy = tiny_policy(head=head, random_crop=0.2, color_jitter=0.3, random_shift=2)
    batch = copy.deepcopy(scenes[0])
    names, before = list(batch), {key: value.clone() for key, value in tensors_of(batch).items()}
    policy.train()
    policy(batch)[0].backward()
    policy.select_action(batch)
    policy.predict_action_chunk(batch)
    assert list(batch) == names
    assert all(torch.equal(batch[key], value) for key, value in before.items())


# --- what a batch may hold ---

EXTRA = "observation.images.ceiling"


def with_camera(batch: dict) -> dict:
    return batch | {EXTRA: torch.rand(3, 3, PIXELS, PIXELS)}


@pytest.mark.parametrize("call", ["forward", "predict_action_chunk", "select_action"])
def test_a_camera_that_the_policy_does_not_know_is_refused(scenes, call):
    policy = tiny_policy()
    with pytest.raises(ValueError, match="does not know") as error:
        getattr(policy, call)(with_camera(scenes[0]))
    for needle in (f"['{EXTRA}']", f"['{IMAGE}', '{WRIST}']", "--policy.views"):
        assert needle in str(error.value)


def test_cameras_that_views_leaves_out_are_ignored(scenes):
    policy = tiny_policy(views=(WRIST,))
    batch = {key: value for key, value in scenes[0].items() if key != IMAGE}
    torch.testing.assert_close(
        policy.predict_action_chunk(with_camera(scenes[0])), policy.predict_action_chunk(batch), rtol=0, atol=0
    )


def test_padding_flags_are_no_cameras(scenes):
    policy = tiny_policy()
    flags = {f"{key}_is_pad": torch.zeros(3, 1, dtype=torch.bool) for key in (IMAGE, WRIST, EXTRA, STATE)}
    chunk = policy.predict_action_chunk(scenes[0] | flags)
    torch.testing.assert_close(chunk, policy.predict_action_chunk(scenes[0]), rtol=0, atol=0)


@pytest.mark.parametrize("call", ["forward", "predict_action_chunk", "select_action"])
def test_a_state_of_another_size_is_refused(scenes, call):
    policy = tiny_policy()
    with pytest.raises(ValueError, match=r"\(B, 8\) as in training, got \(3, 9\)"):
        getattr(policy, call)(scenes[0] | {STATE: torch.zeros(3, 9)})


@pytest.mark.parametrize("key", [IMAGE, STATE, "observation.language.tokens"])
@pytest.mark.parametrize("call", ["forward", "predict_action_chunk", "select_action"])
def test_entries_of_different_numbers_of_samples_are_refused(scenes, call, key):
    policy = tiny_policy()
    batch = scenes[0] | {key: scenes[0][key][:1]}
    with pytest.raises(ValueError, match=rf"of different numbers of samples: .*'{IMAGE}': \d.* a 'task' for several"):
        getattr(policy, call)(batch)


def test_a_policy_for_other_sizes_reads_them():
    from lerobot.configs.types import FeatureType, PolicyFeature

    config = tiny_config(
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))}, chunk_size=5, n_action_steps=2
    )
    raw = raw_batch()
    batch = preprocessed(tiny_config()) | {
        "action": raw["action"][:, :5, :3],
        "action_is_pad": raw["action_is_pad"][:, :5],
    }
    policy = AtlasVLAPolicy(config)
    assert policy(batch)[0].isfinite()
    assert policy.predict_action_chunk(batch).shape == (3, 5, 3)


# --- learning rates ---


def learning_both(root, **overrides) -> AtlasVLAPolicy:
    frozen = {"freeze_vggt": False, "freeze_language": False}
    return released_policy(root, **(frozen | {"optimizer_backbone_lr": 3e-6} | overrides))


def inside(policy: AtlasVLAPolicy) -> set[int]:
    return {id(p) for module in policy.model.backbones().values() for p in module.parameters()}


def test_pretrained_backbones_that_learn_have_their_own_learning_rate(root):
    policy = learning_both(root)
    slow, fast = set(), set()
    for group in policy.get_optim_params():
        (slow if group.get("lr") == 3e-6 else fast).update(id(p) for p in group["params"])
        assert group.get("lr", 3e-6) == 3e-6
    assert slow == inside(policy)
    assert fast == {id(p) for p in policy.parameters()} - slow


def test_backbones_from_scratch_learn_as_fast_as_the_rest():
    assert all("lr" not in group for group in tiny_policy().get_optim_params())


@pytest.mark.parametrize("frozen", [{}, {"freeze_vggt": True}, {"freeze_vggt": True, "freeze_language": True}])
def test_groups_hold_every_parameter_that_learns_once(root, frozen):
    policy = learning_both(root, **frozen)
    groups = policy.get_optim_params()
    members = [id(p) for group in groups for p in group["params"]]
    assert len(set(members)) == len(members)
    assert set(members) == {id(p) for p in policy.parameters() if p.requires_grad}
    assert all(group["params"] for group in groups)
    for group in groups:
        decayed = group.get("weight_decay") != 0.0
        assert all((p.ndim >= 2) == decayed for p in group["params"])


def test_adapters_inside_a_backbone_count_as_new(root):
    policy = learning_both(root)
    backbone = policy.model.backbones()["language"]
    adapters = [torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    for letter, adapter in zip("AB", adapters, strict=True):
        backbone.register_parameter(f"lora_{letter}", adapter)
    new, *_ = policy.get_optim_params()
    assert "lr" not in new
    assert {id(p) for p in adapters} <= {id(p) for p in new["params"]}


def test_the_order_of_the_groups_is_the_same_every_time(root):
    """Optimizer states are stored by position."""

    def order() -> list[list[str]]:
        policy = learning_both(root)
        names = {id(p): name for name, p in policy.named_parameters()}
        return [[names[id(p)] for p in group["params"]] for group in policy.get_optim_params()]

    assert order() == order()


def test_the_schedule_scales_every_group_from_its_own_rate(root):
    policy = learning_both(root, optimizer_lr=2e-4, scheduler_warmup_steps=5)
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert sorted(set(peaks)) == [3e-6, 2e-4]
    scheduler = policy.config.get_scheduler_preset().build(optimizer, num_training_steps=50)
    factors = []
    for _ in range(50):
        shares = [group["lr"] / peak for group, peak in zip(optimizer.param_groups, peaks, strict=True)]
        assert shares == pytest.approx([shares[0]] * len(shares))
        factors.append(shares[0])
        optimizer.step()
        scheduler.step()
    assert max(factors) == pytest.approx(1, abs=0.05)
    assert factors[0] < 0.5
    assert factors[-1] < 0.05
