"""Policies with landmarks: gradients, episodes, threads, checkpoints, steps that resume exactly, compilation."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.inputs import prepare
from lerobot_atlasvla.model import atlasvla
from lerobot_atlasvla.policy.pipelines.end_effector_step import END_EFFECTOR
from lerobot_atlasvla.weights.download import WeightsError
from tests.conftest import IMAGE, STATE, WRIST
from tests.helpers.landmark_policies import HAND_EYE, SETTINGS, FourCells, landmark_policy, started
from tests.helpers.released import preprocessed, released_policy, tiny_policy, write_all, write_with_heads
from tests.weights.test_peft import chunk, load, save, train_a_little, wrapped

KINDS = ["landmarks", "only_landmarks"]


@pytest.fixture(scope="module")
def policy():
    return landmark_policy()


@pytest.fixture(scope="module")
def scenes(policy):
    return [preprocessed(policy.config, seed=seed) for seed in range(4)]


def in_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def episode(policy, scenes) -> list[torch.Tensor]:
    policy.reset()
    return [policy.select_action(scene) for scene in scenes]


# --- what learns ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_all_that_learns_and_nothing_frozen(kind, frozen):
    policy = tiny_policy(**SETTINGS | {"query_conditioning": kind, "freeze_vggt": frozen}).train()
    policy(preprocessed(policy.config))[0].backward()
    loss, _ = policy(preprocessed(policy.config, seed=1))
    loss.backward()
    backbone = {id(parameter) for parameter in policy.model.aggregator.parameters()}
    grads = {name: p.grad for name, p in policy.named_parameters() if frozen or id(p) not in backbone}
    silent = [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()]
    if frozen:
        assert all(name.startswith("model.aggregator.") and policy.model.aggregator for name in silent)
        assert all(p.grad is None and not p.requires_grad for p in policy.model.aggregator.parameters())
        silent = [name for name in silent if not name.startswith("model.aggregator.")]
    else:
        assert policy.model.aggregator.frame_blocks[0].attn.qkv.weight.grad.any()
        assert policy.model.aggregator.own_heads.depth_head.projects[0].weight.grad.any()
    assert silent == []


def test_frozen_points_carry_no_graph(policy, scenes):
    points = policy.model.encode_views(prepare(policy.config, scenes[0], training=False).views).points
    assert not any(part.requires_grad for part in points)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_reach_the_actions_through_points(kind, monkeypatch):
    policy = landmark_policy(query_conditioning=kind)
    batch = preprocessed(policy.config)
    changed = batch | {key: batch[key].flip(-1) for key in (IMAGE, WRIST)}
    assert (episode(policy, [changed])[0] - episode(policy, [batch])[0]).abs().max() > 1e-4
    points = policy.model.aggregator.points
    with monkeypatch.context() as patch:
        patch.setattr(
            policy.model.aggregator,
            "points",
            lambda *_: (found := points(*_))._replace(confidence_BVQ=torch.zeros_like(found.confidence_BVQ)),
        )
        same = torch.allclose(episode(policy, [changed])[0], episode(policy, [batch])[0], atol=1e-6)
    # Beside the landmarks, the decoder sees patches.
    assert same == (kind == "only_landmarks")


@pytest.mark.parametrize("frame", ["base", "first_view"])
def test_a_backbone_needs_no_more_than_the_contract(frame, monkeypatch):
    def fake(config, grid):
        return FourCells(
            patch_embed="conv_stem", patch_size=8, embed_dim=32, depth=2, num_heads=2, grid=grid, layer_scale_init=1.0
        )

    monkeypatch.setattr(atlasvla, "make_geometry_backbone", fake)
    policy = landmark_policy(landmark_frame=frame)
    assert policy.model.points_shape == (2, 4 * 16, 5)
    scenes = [preprocessed(policy.config, seed=seed) for seed in range(2)]
    after, fresh = episode(policy, scenes)[1], episode(policy, scenes[1:])[0]
    assert after.isfinite().all()
    assert not torch.allclose(after, fresh, atol=1e-5)


# --- one pose per episode ---


def test_an_episode_remembers_its_cameras_until_it_is_reset(policy, scenes):
    first = episode(policy, scenes)
    assert all(map(torch.equal, episode(policy, scenes), first))
    assert not torch.allclose(first[3], episode(policy, scenes[3:])[0], atol=1e-5)
    assert torch.equal(first[0], episode(policy, scenes[:1])[0])


def test_environments_of_a_batch_have_cameras_of_their_own(policy, scenes):
    together = episode(policy, scenes)
    for index in range(3):
        alone = [{k: v[[index]] for k, v in scene.items() if isinstance(v, torch.Tensor)} for scene in scenes]
        for action, expected in zip(episode(policy, alone), together, strict=True):
            torch.testing.assert_close(action[0], expected[index], rtol=1e-4, atol=1e-5)


def test_threads_that_share_a_policy_have_episodes_of_their_own(policy, scenes):
    expected = episode(policy, scenes), episode(policy, scenes[::-1])
    policy.reset()
    policy.select_action(scenes[0])
    # Whole episodes of another thread in between, which starts them itself.
    assert all(map(torch.equal, in_thread(lambda: episode(policy, scenes[::-1])), expected[1]))
    assert torch.equal(policy.select_action(scenes[1]), expected[0][1])
    with ThreadPoolExecutor(1) as other:
        other.submit(policy.reset).result()
        other.submit(policy.select_action, scenes[3]).result()
        policy.reset()
        assert torch.equal(other.submit(policy.select_action, scenes[2]).result(), expected[1][1])


def test_a_thread_that_only_predicts_follows_the_resets_of_another(policy, scenes):
    """As LeRobot's rollout does with real-time chunking."""
    policy.reset()
    fresh, later = (policy.predict_action_chunk(scenes[1]) for _ in range(2))
    assert torch.allclose(fresh, later, atol=1e-5)
    with ThreadPoolExecutor(1) as inference:
        policy.reset()
        inference.submit(policy.predict_action_chunk, scenes[0]).result()
        old = inference.submit(policy.predict_action_chunk, scenes[1]).result()
        policy.reset()
        new = inference.submit(policy.predict_action_chunk, scenes[1]).result()
    assert torch.equal(new, fresh)
    assert not torch.allclose(old, fresh, atol=1e-5)


def test_copies_know_nothing_of_the_cameras(policy, scenes):
    expected = episode(policy, scenes[1:2])[0]
    episode(policy, scenes[:1])
    assert torch.equal(copy.deepcopy(policy).select_action(scenes[1]), expected)


def test_a_loss_takes_every_frame_for_itself(policy, scenes):
    expected = policy(scenes[1])[0]
    episode(policy, scenes)
    assert torch.equal(policy(scenes[1])[0], expected)
    two = {k: torch.cat((scenes[0][k], v)) for k, v in scenes[1].items() if isinstance(v, torch.Tensor)}
    losses = policy(two, reduction="none")[0]
    torch.testing.assert_close(losses[3:].mean(), expected, rtol=1e-4, atol=1e-5)


def test_the_state_says_where_the_wrist_camera_is(policy, scenes):
    without = {key: value for key, value in scenes[0].items() if key != END_EFFECTOR}
    with pytest.raises(ValueError, match=rf"{END_EFFECTOR}.*--policy\.hand_eye"):
        policy.predict_action_chunk(without)
    mean, std = torch.arange(8) * 0.1, torch.linspace(0.5, 2, 8)
    torch.testing.assert_close(scenes[0][END_EFFECTOR], (scenes[0][STATE] * std + mean)[:, :6], rtol=1e-4, atol=1e-5)
    # An end effector at the origin, not turned: LIBERO's camera looks along its z, 9.7 cm behind the fingertips.
    still = scenes[0] | {END_EFFECTOR: torch.zeros(3, 6)}
    camera = prepare(policy.config, still, training=False).first_to_base_B34[0]
    torch.testing.assert_close(camera[:, 3], torch.tensor(HAND_EYE[:3]))
    torch.testing.assert_close(camera[:, 2], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-6)


# --- saved, resumed, compiled ---


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_leave_out_frozen_heads_and_act_alike(tmp_path, kind):
    from safetensors.torch import load_file

    root = write_with_heads(tmp_path / "released")
    policy = started(released_policy(root, vggt_depth=4, **SETTINGS | {"query_conditioning": kind}))
    policy.save_pretrained(tmp_path / "saved")
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "aggregator" in name]
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    scenes = [preprocessed(policy.config, seed=seed) for seed in range(2)]
    assert all(map(torch.equal, episode(loaded, scenes), episode(policy, scenes)))
    assert loaded.model.landmarks.started


def test_a_checkpoint_with_landmarks_in_meters_is_refused_with_its_commit(tmp_path):
    from safetensors.torch import load_file, save_file

    root = write_with_heads(tmp_path / "released")
    policy = started(released_policy(root, vggt_depth=4, **SETTINGS))
    policy.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/model.safetensors"
    tensors = load_file(file)
    del tensors["model.landmarks.centers_VK3"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="849e219"):
        AtlasVLAPolicy.from_pretrained(tmp_path / "saved")


def test_heads_stay_float32_beside_a_bfloat16_backbone(tmp_path):
    root = write_with_heads(tmp_path / "released")
    policy = started(released_policy(root, vggt_depth=4, backbone_dtype="bfloat16", **SETTINGS))
    kinds = {name.startswith("own_heads."): p.dtype for name, p in policy.model.aggregator.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert episode(policy, [preprocessed(policy.config)])[0].isfinite().all()


def test_weights_without_heads_are_refused_by_the_setting(tmp_path):
    root = write_all(tmp_path)
    with pytest.raises(WeightsError, match=r"camera_head.*--policy\.vggt_model.*query_conditioning=landmarks"):
        released_policy(root, **SETTINGS)


def test_heads_of_a_shortened_aggregator_are_refused(tmp_path):
    root = write_with_heads(tmp_path)
    with pytest.raises(WeightsError, match=r"trained on its last blocks, and --policy\.vggt_depth=3 leaves those out"):
        released_policy(root, vggt_depth=3, **SETTINGS)


def test_heads_are_read_only_for_landmarks(tmp_path):
    root = write_with_heads(tmp_path)
    assert not [n for n, _ in released_policy(root, vggt_depth=4).named_parameters() if "own_heads" in n]


def steps(policy, scenes) -> None:
    optimizer = torch.optim.SGD(policy.get_optim_params(), lr=0.1)
    policy.train()
    for scene in scenes:
        policy(scene)[0].backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_resumed_run_draws_and_starts_as_the_uninterrupted_one(tmp_path, scenes):
    whole = tiny_policy(**SETTINGS)
    steps(whole, scenes[:2])
    whole.save_pretrained(tmp_path)
    steps(whole, scenes[2:])
    resumed = AtlasVLAPolicy.from_pretrained(tmp_path)
    steps(resumed, scenes[2:])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_adapter_brings_the_landmarks_with_it(tmp_path):
    root = write_with_heads(tmp_path / "released")
    model = wrapped(released_policy(root, vggt_depth=4, **SETTINGS))
    assert "model.landmarks" in model.peft_config["default"].modules_to_save
    batch = preprocessed(model.config)
    train_a_little(model, batch)
    heads = [p for name, p in model.named_parameters() if ".own_heads." in name]
    assert heads
    assert not any(p.requires_grad for p in heads)
    adapted = {name for name, p in model.named_parameters() if ".lora_B." in name and p.any()}
    assert {name.split(".")[5] for name in adapted} == {"2", "3"}
    loaded = load(save(model, tmp_path / "adapter"))
    assert loaded.base_model.model.model.landmarks.started
    for policy in (model, loaded):
        policy.base_model.model.reset()
    assert torch.equal(chunk(loaded, batch), chunk(model, batch))
