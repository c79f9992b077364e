"""The settings of landmarks: what can't work is refused, and what old checkpoints say is still read."""

import json

import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.policy.checks.config import ConfigError
from tests.conftest import IMAGE, STATE, WRIST, tiny_config
from tests.helpers.landmark_policies import HAND_EYE, SETTINGS

LANDMARKS = {"query_conditioning": "landmarks"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"query_conditioning": "landmark"}, ["keypoints, landmarks, only_landmarks, none", "'landmark'"]),
        (LANDMARKS | {"views": ("none",)}, ["blind", "['none']", "--policy.views"]),
        (LANDMARKS | {"vision": "da3", "image_size": (28, 28)}, ["vision='vggt'", "'da3'", "DA3", "--policy.vision"]),
        (LANDMARKS | {"vision": "patch", "vision_patch_size": 8}, ["vision='vggt'", "'patch'", "--policy.vision"]),
        (LANDMARKS | {"fusion": "early"}, ["fusion='late'", "'early'", "--policy.fusion=late"]),
        (LANDMARKS | {"vggt_blocks": "removed"}, ["vggt_blocks='removed'", "--policy.vggt_blocks=normal"]),
        (LANDMARKS | {"empty_cameras": 1}, ["empty_cameras 1", "--policy.empty_cameras=0"]),
        (LANDMARKS | {"vggt_embed_dim": 40}, ["vggt_embed_dim", "multiple of 32", "40", "--policy.vggt_embed_dim"]),
        (LANDMARKS | {"landmark_frame": "base"}, ["landmark_frame='base'", "hand_eye is empty", "--policy.hand_eye"]),
        (LANDMARKS | {"landmark_frame": "world"}, ["landmark_frame", "first_view, base", "'world'"]),
        (LANDMARKS | {"hand_eye": (0.0,) * 6}, ["hand_eye", "seven numbers", "--policy.hand_eye"]),
        (LANDMARKS | {"hand_eye": (0.0,) * 7}, ["hand_eye", "length 1", "--policy.hand_eye"]),
        (LANDMARKS | {"hand_eye": (float("nan"), *HAND_EYE[1:])}, ["hand_eye", "nan", "--policy.hand_eye"]),
        (LANDMARKS | {"hand_eye": HAND_EYE, "use_state": False}, ["hand_eye", "use_state", "--policy.use_state=true"]),
        (LANDMARKS | {"landmark_box": (0.0,) * 5}, ["landmark_box", "six numbers", "--policy.landmark_box"]),
        (LANDMARKS | {"landmark_box": (0, 0, 0, 1, 0, 1)}, ["landmark_box", "lowest", "--policy.landmark_box"]),
        (LANDMARKS | {"landmark_scale": 0.0}, ["landmark_scale", "(0, 1000]", "--policy.landmark_scale"]),
        (LANDMARKS | {"landmark_turn": 91}, ["landmark_turn", "[0, 90]", "--policy.landmark_turn"]),
        (LANDMARKS | {"landmark_noise": -0.1}, ["landmark_noise", "[0, 1]", "--policy.landmark_noise"]),
        ({"landmark_frame": "base"}, ["landmark_frame='base'", "'keypoints'", "--policy.query_conditioning"]),
        ({"hand_eye": HAND_EYE}, ["hand_eye", "'keypoints'", "--policy.query_conditioning"]),
        (LANDMARKS | {"condition_queries": False}, ["'landmarks'", "condition_queries", "False"]),
        ({"query_conditioning": "none", "condition_queries": True}, ["'none'", "condition_queries", "True"]),
    ],
)
def test_what_cannot_work_is_refused(overrides, words):
    with pytest.raises(ConfigError) as error:
        tiny_config(**overrides)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"views": (IMAGE, WRIST)}, [IMAGE, WRIST, f"--policy.views='[{WRIST}, {IMAGE}]'"]),
        (
            {
                "input_features": {
                    WRIST: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
                    STATE: PolicyFeature(FeatureType.STATE, (5,)),
                },
                "views": (WRIST,),
            },
            ["6 numbers", STATE, "has 5", "--policy.hand_eye"],
        ),
    ],
)
def test_data_that_a_calibration_does_not_fit_are_refused(overrides, words):
    with pytest.raises(ValueError, match="hand_eye") as error:
        AtlasVLAPolicy(tiny_config(**(SETTINGS | overrides)))
    for word in words:
        assert word in str(error.value)


def test_a_second_camera_at_the_hand_is_refused():
    left, right = "observation.images.left_wrist", "observation.images.right_wrist"
    features = {key: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for key in (left, right, IMAGE)}
    features[STATE] = PolicyFeature(FeatureType.STATE, (8,))
    with pytest.raises(ValueError, match=rf"{right} is at the wrist by its name: leave it out"):
        AtlasVLAPolicy(tiny_config(**(SETTINGS | {"input_features": features, "views": (left, right, IMAGE)})))


@pytest.mark.parametrize(("former", "now"), [(True, "keypoints"), (False, "none"), (None, "keypoints")])
def test_what_old_checkpoints_say_of_the_queries_is_read(tmp_path, former, now):
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    assert content["condition_queries"] is None
    del content["query_conditioning"]
    for name in ("landmark_frame", "hand_eye", "landmark_scale", "landmark_box", "landmark_noise", "landmark_turn"):
        del content[name]
    file.write_text(json.dumps(content | {"condition_queries": former}))
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, AtlasVLAConfig)
    assert (config.query_conditioning, config.condition_queries) == (now, None)


def test_the_settings_are_saved_and_loaded(tmp_path):
    settings = SETTINGS | {"landmark_box": (-1.0, -1.0, 0.0, 1.0, 1.0, 2.0), "landmark_scale": 0.5}
    tiny_config(**settings).save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, AtlasVLAConfig)
    assert {name: getattr(config, name) for name in settings} == settings
