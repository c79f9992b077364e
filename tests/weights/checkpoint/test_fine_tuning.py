"""Starting from a checkpoint on data with fewer cameras, or with states or actions of another size."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAPolicy
from lerobot_atlasvla.policy.pipelines.files import PipelineError
from lerobot_atlasvla.weights.download import WeightsError
from tests.conftest import IMAGE, PIXELS, STATE, WRIST, tiny_config
from tests.helpers.landmark_policies import landmark_policy
from tests.helpers.released import WEIGHTS, change_file, inputs_of, preprocessed

CONDITION = "model.decoder.queries.condition.0.weight"
VIEW_EMBED = "model.fusion.geometry_projector.view_embed"
STATE_LAYER = "model.state_projector.weight"


def dataset(tmp_path, **features):
    """Metadata of a dataset, as far as a policy that is made for it looks."""
    return SimpleNamespace(features=features, stats={}, repo_id="a/b", total_frames=0, root=tmp_path)


def started_from(folder, meta, *, action=None, **settings):
    config = PreTrainedConfig.from_pretrained(folder)
    for name, value in settings.items():
        setattr(config, name, value)
    if action:
        config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (action,))}
    return AtlasVLAPolicy.from_pretrained(folder, config=config, dataset_meta=meta)


def changed_names(before, after):
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_another_action_size_starts_the_head_at_random_and_nothing_else(tmp_path, caplog, head):
    before = AtlasVLAPolicy(tiny_config(head=head))
    before.save_pretrained(tmp_path)
    after = started_from(tmp_path, dataset(tmp_path), action=3)
    assert after.config.action_dim == after.model.head.proj.out_features == 3
    expected = {"proj.weight", "proj.bias"} | ({"action_in.weight"} if head == "flow" else set())
    assert changed_names(before, after) == {f"model.head.{name}" for name in expected}
    assert "has actions of 7 numbers and the dataset of 3" in caplog.text
    assert "start from RANDOM weights" in caplog.text


def test_another_state_size_starts_what_reads_the_state_at_random_and_nothing_else(tmp_path, caplog):
    before = AtlasVLAPolicy(tiny_config())
    before.save_pretrained(tmp_path)
    after = started_from(tmp_path, dataset(tmp_path, **{STATE: {"dtype": "float32", "shape": (6,)}}))
    assert after.config.state_dim == 6
    assert changed_names(before, after) == {STATE_LAYER, CONDITION}
    # The condition begins with the state; what comes after it is as it was.
    assert torch.equal(before.state_dict()[CONDITION][:, 8:], after.state_dict()[CONDITION][:, 6:])
    assert "has states of 8 numbers and the dataset of 6" in caplog.text
    assert f"{CONDITION} (the state's columns), {STATE_LAYER} start from RANDOM weights" in caplog.text


def decoded(policy, *places):
    """What the decoder makes of a batch that has the views at some places only."""
    inputs = inputs_of(policy, preprocessed(tiny_config()))
    cameras = tuple(inputs.views.cameras[place] for place in places)
    views = replace(inputs.views, cameras=cameras, present=places)
    model = policy.model
    with torch.no_grad():
        return model.decode(model.fuse(model.encode_views(views), model.encode_language(inputs), inputs.state_BN))


@pytest.mark.parametrize("settings", [{}, {"fusion": "early"}, {"query_conditioning": "none"}])
@pytest.mark.parametrize("place", [0, 1])
def test_with_fewer_cameras_it_decodes_what_the_checkpoint_does_without_the_others(tmp_path, caplog, place, settings):
    torch.manual_seed(0)
    before = AtlasVLAPolicy(tiny_config(**settings))
    before.save_pretrained(tmp_path)
    after = started_from(tmp_path, dataset(tmp_path), views=((IMAGE, WRIST)[place],))
    torch.testing.assert_close(decoded(after, 0), decoded(before, place), rtol=1e-5, atol=1e-6)
    # The cameras are told apart.
    assert not torch.allclose(decoded(before, 0), decoded(before, 1), atol=1e-3)
    assert "start from RANDOM weights, everything else" not in caplog.text


def test_the_landmarks_of_a_camera_go_with_it(tmp_path):
    before = landmark_policy()
    before.save_pretrained(tmp_path)
    after = started_from(tmp_path, dataset(tmp_path), views=(WRIST,))
    old, new = before.state_dict(), after.state_dict()
    for name in ("model.landmarks.prototypes_VKE", "model.landmarks.centers_VK3"):
        assert torch.equal(old[name][:1], new[name])
    lost = before.model.landmarks.output_dim // 2
    assert torch.equal(old[CONDITION][:, :-lost], new[CONDITION])


@pytest.mark.parametrize("views", [(IMAGE,), (IMAGE, WRIST)])
def test_landmarks_keep_their_first_camera(tmp_path, views):
    landmark_policy(landmark_frame="first_view", hand_eye=()).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=f"frame of its first camera, {WRIST}, which must stay the first one"):
        started_from(tmp_path, dataset(tmp_path), views=views)


def test_images_of_another_size_are_written_down(tmp_path, caplog):
    """Those of a camera that --rename_map renames are known from the first batch on."""
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    image = {"dtype": "image", "shape": (48, 80, 3), "names": ["height", "width", "channel"]}
    state = {"dtype": "float32", "shape": (8,)}
    policy = started_from(tmp_path, dataset(tmp_path, **{IMAGE: image, STATE: state}))
    assert {key: camera.shape for key, camera in policy.config.image_features.items()} == {
        IMAGE: (3, 48, 80),
        WRIST: (3, PIXELS, PIXELS),
    }
    assert f"{IMAGE} (48 x 80)" in caplog.text
    batch = preprocessed(tiny_config())
    batch |= {IMAGE: torch.rand(3, 3, 48, 80), WRIST: torch.rand(3, 3, 40, 40)}
    policy.train().forward(batch)
    assert policy.config.image_features[WRIST].shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("chunk_size", 20, "chunk_size was 10, not 20"),
        ("head", "flow", "head was 'l1', not 'flow'"),
        ("use_state", False, "use_state was True, not False"),
        ("image_size", (64, 64), rf"image_size was \({PIXELS}, {PIXELS}\), not \(64, 64\)"),
        ("views", ("none",), "views was .*none"),
    ],
)
def test_a_setting_that_gives_other_weights_is_named(tmp_path, setting, value, words):
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=rf"The checkpoint was made with other settings: --policy\.{words}"):
        started_from(tmp_path, dataset(tmp_path), **{setting: value})


def test_the_kept_pipeline_cuts_instructions_where_the_settings_say(tmp_path, checkpoint):
    with pytest.raises(
        PipelineError, match=r"cuts instructions to 128 tokens.* leave out --policy\.tokenizer_max_length=64"
    ):
        started_from(checkpoint, dataset(tmp_path), tokenizer_max_length=64)
    started_from(checkpoint, dataset(tmp_path))


def test_what_was_started_from_a_checkpoint_saves_and_loads(tmp_path):
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path / "before")
    meta = dataset(tmp_path, **{STATE: {"dtype": "float32", "shape": (6,)}})
    after = started_from(tmp_path / "before", meta, action=5, views=(WRIST,))
    after.save_pretrained(tmp_path / "after")
    assert not changed_names(after, AtlasVLAPolicy.from_pretrained(tmp_path / "after"))


def test_cameras_in_another_order_are_an_error_when_nobody_is_about_to_train(tmp_path):
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"in this order, not .*: leave out --policy\.views"):
        started_from(tmp_path, None, views=(WRIST, IMAGE))


def test_cameras_in_another_order_take_their_weights_along(tmp_path):
    before = AtlasVLAPolicy(tiny_config())
    before.save_pretrained(tmp_path)
    after = started_from(tmp_path, dataset(tmp_path), views=(WRIST, IMAGE))
    assert torch.equal(before.state_dict()[VIEW_EMBED].flip(1), after.state_dict()[VIEW_EMBED])


@pytest.mark.parametrize("change", [{"action": 3}, {"views": (WRIST,)}])
def test_without_a_dataset_other_sizes_are_an_error(tmp_path, change):
    """Nobody is about to train it."""
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="of another shape: model"):
        started_from(tmp_path, None, **change)


def test_a_damaged_head_is_no_other_action_size(tmp_path):
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    change_file(tmp_path / WEIGHTS, lambda tensors: tensors.update({"model.head.proj.bias": torch.zeros(4)}))
    with pytest.raises(WeightsError, match=r"of another shape: model\.head\.proj.bias"):
        started_from(tmp_path, dataset(tmp_path), action=7)


@pytest.mark.parametrize("name", [CONDITION, VIEW_EMBED])
def test_damaged_weights_are_no_fewer_cameras(tmp_path, name):
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    change_file(tmp_path / WEIGHTS, lambda tensors: tensors.update({name: torch.zeros(4)}))
    with pytest.raises(WeightsError, match=f"of another shape: {name}"):
        started_from(tmp_path, dataset(tmp_path, **{STATE: {"dtype": "float32", "shape": (6,)}}), views=(WRIST,))


def test_an_adapter_can_not_be_kept_without_such_a_base(tmp_path):
    peft = pytest.importorskip("peft")
    AtlasVLAPolicy(tiny_config()).save_pretrained(tmp_path)
    policy = started_from(tmp_path, dataset(tmp_path), action=3, pretrained_path=tmp_path)
    with pytest.raises(ValueError, match="does not fit this dataset's cameras, states or actions"):
        policy.wrap_with_peft(peft.LoraConfig(target_modules=["qkv"]))
