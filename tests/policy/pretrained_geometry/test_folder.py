"""A policy on a backbone's folder: its sizes, its views' order, its checkpoints."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.inputs import prepare
from lerobot_atlasvla.policy.pretrained_geometry import role_of
from lerobot_atlasvla.training.feature_cache.key import CacheKey
from lerobot_atlasvla.training.feature_cache.reader import cache_key
from tests.conftest import IMAGE, PIXELS, STATE, WRIST, raw_batch, tiny_config
from tests.helpers.geometry.backbone import write_backbone
from tests.helpers.landmark_policies import HAND_EYE
from tests.helpers.released import preprocessed, write_vggt
from tests.policy.pretrained_geometry.policies import OF_RECORD, make, refusal, settings


def test_the_sizes_come_from_the_folder(backbone):
    policy = make(backbone)
    config = policy.config
    assert config.image_size == (PIXELS, PIXELS)
    assert (config.vggt_patch_embed, config.vggt_patch_size, config.vggt_embed_dim) == ("conv_stem", 8, 32)
    assert (config.vggt_depth, config.vggt_num_heads, config.vggt_num_register_tokens) == (2, 2, 2)
    assert config.vggt_output_layers == (1,)
    assert type(config.vggt_embed_dim) is int
    assert type(config.image_size) is tuple
    weights = load_file(backbone / "model.safetensors")
    aggregator = policy.model.aggregator
    assert torch.equal(aggregator.camera_token, weights["aggregator.camera_token"])
    assert torch.equal(aggregator.patch_embed.pos_embed, weights["aggregator.patch_embed.pos_embed"])
    assert torch.equal(aggregator.point_heads.cell_mlp.fc1.weight, weights["point_heads.cell_mlp.fc1.weight"])
    assert not any(parameter.requires_grad for parameter in aggregator.parameters())
    assert policy.backbone_record.sources["vggt"]["digest"].startswith("sha256:")


def test_what_a_file_says_like_a_default_is_not_unset():
    defaults = AtlasVLAConfig(device="cpu")
    assert defaults.unset_fields == set(OF_RECORD)
    given = {name: getattr(defaults, name) for name in OF_RECORD}
    assert AtlasVLAConfig(device="cpu", **given).unset_fields == set()
    assert AtlasVLAConfig(device="cpu", **given) == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vggt_embed_dim", 64),
        ("vggt_embed_dim", 1024),  # the default, but given
        ("vggt_depth", 1),
        ("vggt_num_heads", 16),
        ("vggt_num_register_tokens", 4),
        ("vggt_patch_size", 4),
        ("vggt_patch_embed", "conv"),
        ("image_size", (64, 64)),
        ("image_size", (224, 224)),
    ],
)
def test_a_setting_that_says_something_else_is_refused(backbone, name, value):
    message = refusal(backbone, **{name: value})
    assert f"--policy.{name}" in message
    assert str(backbone) in message
    assert str(value) in message


def test_the_same_value_may_be_given_again(backbone):
    again = {"vggt_embed_dim": 32, "image_size": (PIXELS, PIXELS), "vggt_output_layers": (0, 1)}
    assert make(backbone, **again).config.vggt_output_layers == (0, 1)


def test_other_settings_are_checked_against_the_sizes(backbone):
    assert "--policy.random_shift" in refusal(backbone, random_shift=40)
    assert "--policy.vggt_output_layers" in refusal(backbone, vggt_output_layers=(2,))


@pytest.mark.parametrize(
    ("cameras", "order"),
    [
        ((IMAGE, WRIST), (WRIST, IMAGE)),
        ((WRIST, IMAGE), (WRIST, IMAGE)),
        ((IMAGE, "observation.images.image2"), ("observation.images.image2", IMAGE)),
        (
            ("observation.images.scene", "observation.images.wrist"),
            ("observation.images.wrist", "observation.images.scene"),
        ),
        (
            ("observation.images.front", "observation.images.hand"),
            ("observation.images.hand", "observation.images.front"),
        ),
    ],
)
def test_views_come_in_the_order_of_the_backbone(backbone, cameras, order):
    policy = make(backbone, cameras=cameras)
    assert policy.config.view_keys == order
    assert policy.config.views == order
    # Also when the user names them in another order.
    assert make(backbone, cameras=cameras, views=cameras).config.view_keys == order


def test_the_pixels_of_the_wrist_camera_come_first(backbone):
    policy = make(backbone)
    batch = preprocessed(policy.config)
    images = prepare(policy.config, batch, training=False).views.images()
    assert torch.equal(images[:, 0], raw_batch()[WRIST])
    assert torch.equal(images[:, 1], raw_batch()[IMAGE])
    points = policy.model.aggregator.points(policy.model.aggregator(images, [1]).layers, policy.model.grid)
    assert points.points_BVQ3.shape == (3, 2, 64, 3)


@pytest.mark.parametrize(
    ("cameras", "words"),
    [
        ((IMAGE,), ["'wrist' has no camera", "--policy.vggt_views"]),
        ((WRIST,), ["'scene' has no camera", "--policy.vggt_views"]),
        ((IMAGE, WRIST, "observation.images.side"), ["'scene' has several", "observation.images.side"]),
    ],
)
def test_a_role_without_one_camera_is_refused_by_name(backbone, cameras, words):
    message = refusal(backbone, cameras=cameras)
    assert all(word in message for word in words)


def test_an_ambiguous_role_is_settled_by_views_or_vggt_views(backbone):
    cameras = (IMAGE, WRIST, "observation.images.side")
    assert make(backbone, cameras=cameras, views=(IMAGE, WRIST)).config.view_keys == (WRIST, IMAGE)
    told = ("observation.images.side", IMAGE)
    policy = make(backbone, cameras=cameras, vggt_views=told)
    assert policy.config.view_keys == told
    assert set(policy.config.image_features) == set(told)


@pytest.mark.parametrize("told", [(WRIST,), (WRIST, "observation.images.x"), (WRIST, IMAGE, STATE)])
def test_vggt_views_must_name_the_policys_cameras(backbone, told):
    assert "--policy.vggt_views" in refusal(backbone, vggt_views=told)


def test_vggt_views_needs_a_backbone_with_roles(backbone):
    random = {name: value for name, value in vars(tiny_config()).items() if name.startswith("vggt_")}
    for changes in (random, {"vision": "da3"}):
        assert "--policy.vggt_views" in refusal(backbone, **(changes | {"vggt_views": (WRIST, IMAGE)}))


def test_a_backbone_of_the_scene_alone_leaves_the_wrist_camera_out(tmp_path):
    policy = make(write_backbone(tmp_path / "scene", "scene", frame="base"))
    assert policy.config.view_keys == (IMAGE,)
    assert set(policy.config.image_features) == {IMAGE}
    assert policy.model.aggregator.point_frame == "base"


def test_a_backbone_that_sees_the_base_needs_no_hand_eye_calibration(tmp_path):
    """LIBERO's state is in the world's frame, a meter from the base's."""
    settings = {"query_conditioning": "landmarks", "views": (WRIST, IMAGE), "hand_eye": HAND_EYE}
    assert "leave out --policy.hand_eye" in refusal(
        write_backbone(tmp_path / "both", "wrist", "scene", frame="base"), **settings
    )
    make(write_backbone(tmp_path / "first_view", "wrist", "scene", frame="first_view"), **settings)


def test_a_backbone_that_sees_the_base_has_one_moving_camera_the_first(tmp_path):
    folder = write_backbone(tmp_path / "wrist_first", "wrist", "scene", frame="base")
    assert make(folder, query_conditioning="landmarks").config.view_keys == (WRIST, IMAGE)
    folder = write_backbone(tmp_path / "wrist_last", "scene", "wrist", frame="base")
    with pytest.raises(ValueError, match=f"{WRIST} is at the wrist by its name: leave it out"):
        make(folder, query_conditioning="landmarks")


def test_a_feature_cache_is_of_one_frame_and_one_scale(tmp_path):
    """What the heads predict offsets from is in the record and not among the weights."""
    meta = SimpleNamespace(repo_id="local/x", total_frames=3)
    landmarks = {"query_conditioning": "landmarks"}
    in_base = write_backbone(tmp_path / "base", "scene", frame="base")
    record = json.loads((in_base / "config.json").read_text())
    keys = []
    for name, changes in (("same", {}), ("other", {"point": [[1.0, 2.0, 3.0]]})):
        folder = shutil.copytree(in_base, tmp_path / name)
        record["heads"]["statistics"] |= changes
        (folder / "config.json").write_text(json.dumps(record))
        keys.append(cache_key(make(folder, **landmarks), meta))
    assert [key.differences(keys[0]) for key in keys[:1]] == [[]]
    (difference,) = keys[1].differences(keys[0])
    assert difference.startswith("scales: base sha256:")
    assert cache_key(make(in_base), meta).scales is None


def test_roles_of_ones_own_are_matched_by_name():
    assert role_of("observation.images.left", ("left", "wrist")) == "left"
    assert role_of("observation.images.eye_in_hand", ("wrist", "scene")) == "wrist"
    assert role_of("observation.images.image", ("wrist", "scene")) == "scene"


def test_a_checkpoint_refers_to_the_backbone_and_acts_the_same(backbone, tmp_path):
    policy = make(backbone)
    policy.save_pretrained(tmp_path / "saved")
    names = load_file(tmp_path / "saved" / "model.safetensors").keys()
    assert not any("aggregator" in name for name in names)
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert again.config.view_keys == (WRIST, IMAGE)
    assert again.config.backbone_architectures["vggt"] == policy.config.backbone_architectures["vggt"]
    batch = preprocessed(policy.config)
    assert torch.equal(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))


def test_a_whole_checkpoint_needs_no_folder(backbone, tmp_path):
    folder = shutil.copytree(backbone, tmp_path / "backbone")
    policy = make(folder, save_full_weights=True)
    policy.save_pretrained(tmp_path / "saved")
    # Nor does it mind that another backbone is there now.
    write_backbone(folder, depth=1)
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    batch = preprocessed(policy.config)
    assert torch.equal(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    shutil.rmtree(folder)
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert again.model.aggregator.point_heads is not None


@pytest.mark.parametrize("value", ["x", {}, {"views": []}, {"views": ["wrist"], "heads": {"frame": 1}}, [1]])
def test_a_checkpoint_with_damaged_entries_is_refused(backbone, tmp_path, value):
    make(backbone).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    content["backbone_architectures"]["vggt"] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"vggt|backbone_architectures"):
        AtlasVLAPolicy.from_pretrained(tmp_path)


def test_the_key_of_a_feature_cache_knows_weights_and_views(backbone, tmp_path):
    def key(policy: AtlasVLAPolicy) -> CacheKey:
        mark = policy.backbone_record.fingerprint("vggt", policy.model.aggregator)
        return CacheKey.of(policy.config, dataset="d", frames=1, weights=mark)

    first = key(make(backbone))
    assert first.views == (WRIST, IMAGE)
    assert first.layer == (2, 17, 64)
    assert first.differences(key(make(backbone))) == []
    other = key(make(write_backbone(tmp_path / "other", seed=9)))
    assert [line.split(":")[0] for line in first.differences(other)] == ["weights"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["config.json is missing", "--policy.vggt_model"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["can't be read", "--policy.vggt_model"]),
        (
            lambda folder: (folder / "config.json").write_text('{"embed_dim": 1024}'),
            ["config.json is missing", "or another model's"],
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "atlasvla_geometry_backbone"}'),
            ["is damaged", "format", "--policy.vggt_model"],
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
            ["model.safetensors is damaged", "download it again"],
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no weight file", "--policy.vggt_model"]),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path, damage, words):
    folder = write_backbone(tmp_path / "backbone")
    damage(folder)
    message = refusal(folder)
    assert all(word in message for word in words), message


def test_weights_of_other_sizes_than_the_record_are_refused(tmp_path):
    folder = write_backbone(tmp_path / "backbone")
    write_backbone(tmp_path / "other", embed_dim=48)
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    assert "of another shape" in refusal(folder)


def test_vggt_views_needs_a_record_too(tmp_path):
    write_vggt(tmp_path / "vggt")
    sizes = {
        "vggt_patch_embed": "conv",
        "vggt_patch_size": 8,
        "vggt_embed_dim": 32,
        "vggt_depth": 2,
        "vggt_num_heads": 2,
    }
    sizes |= {"vggt_output_layers": (0, 1), "image_size": (32, 32)}
    assert make(tmp_path / "vggt", **sizes).config.view_keys == (IMAGE, WRIST)
    assert "--policy.vggt_views" in refusal(tmp_path / "vggt", vggt_views=(WRIST, IMAGE), **sizes)


def test_a_backbone_without_heads_acts_and_has_no_points(tmp_path):
    folder = write_backbone(tmp_path / "plain")
    content = json.loads((folder / "config.json").read_text()) | {"heads": None}
    (folder / "config.json").write_text(json.dumps(content))
    policy = make(folder)
    assert policy.model.aggregator.point_layers == ()
    assert policy.predict_action_chunk(preprocessed(policy.config)).isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "early"},
        {"vision": "patch", "vision_patch_size": 8, "vision_patch_dim": 16, "image_size": (16, 16)},
    ],
)
def test_its_blocks_serve_other_recipes_without_the_heads(backbone, changes):
    policy = make(backbone, **changes)
    assert policy.config.view_keys == (WRIST, IMAGE)
    assert policy.model.aggregator.point_heads is None
    assert policy.predict_action_chunk(preprocessed(policy.config)).isfinite().all()


def test_it_may_learn_on(backbone):
    policy = make(backbone, freeze_vggt=False)
    batch = preprocessed(policy.config)
    loss, _ = policy.train().forward(batch)
    loss.backward()
    assert policy.model.aggregator.frame_blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_copies_know_what_was_unset(backbone):
    config = AtlasVLAConfig(**settings(backbone))
    assert copy.copy(config).unset_fields == config.unset_fields
    assert copy.deepcopy(config).unset_fields == config.unset_fields


def test_a_blind_twin_needs_no_backbone(tmp_path):
    for told in ((), (WRIST, IMAGE)):
        assert make(tmp_path / "nothing", views=("none",), vggt_views=told).config.view_keys == ()
