"""Which LIBERO camera a policy's view is, from its name."""

import pytest

from eval.common.errors import EvalError
from eval.rollout.policy.camera_keys import camera_mapping

SCENE, WRIST = "agentview_image", "robot0_eye_in_hand_image"


def keys(*names: str) -> list[str]:
    return [f"observation.images.{name}" for name in names]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("image", "wrist_image"), {SCENE: "image", WRIST: "wrist_image"}),
        (("wrist_image", "image"), {SCENE: "image", WRIST: "wrist_image"}),
        (("image", "image2"), {SCENE: "image", WRIST: "image2"}),
        (("image2", "image"), {SCENE: "image", WRIST: "image2"}),
        (("front", "Gripper_cam"), {SCENE: "front", WRIST: "Gripper_cam"}),
        (("eye_in_hand", "top"), {SCENE: "top", WRIST: "eye_in_hand"}),
        (("image", "wrist_image", "empty_camera_0"), {SCENE: "image", WRIST: "wrist_image"}),
        (("anything",), {SCENE: "anything"}),
        (("wrist_image",), {WRIST: "wrist_image"}),
    ],
)
def test_names_say_which_is_which(names, expected):
    assert camera_mapping(keys(*names)) == expected


@pytest.mark.parametrize("names", [("front", "side"), ("left_wrist", "right_wrist"), ("image", "image2", "image3")])
def test_names_that_leave_it_open_are_refused(names):
    with pytest.raises(EvalError, match=r"--cameras=") as refused:
        camera_mapping(keys(*names))
    for key in keys(*names):
        assert key in str(refused.value)


def test_the_flag_decides():
    given = {WRIST: "front", SCENE: "side"}
    mapping = camera_mapping(keys("front", "side"), given)
    assert mapping == given
    assert next(iter(mapping)) == SCENE  # LeRobot's videos show the first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frontview_image": "front"}, f"frontview_image, which LIBERO does not offer; allowed: {SCENE}, {WRIST}"),
        ({SCENE: "front"}, "the views front, but the policy needs exactly front, side"),
        ({SCENE: "front", WRIST: "front"}, "the views front, front"),
        ({SCENE: "front", WRIST: "image"}, "the views front, image"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused(given, message):
    with pytest.raises(EvalError, match=message):
        camera_mapping(keys("front", "side"), given)


def test_a_blind_policy_needs_no_camera():
    assert camera_mapping([]) == {}


@pytest.mark.parametrize("features", [["observation.image"], keys("empty_camera_0")])
def test_policies_without_such_images_are_refused(features):
    with pytest.raises(EvalError, match="cannot be rolled out in LIBERO"):
        camera_mapping(features)
