"""DA3's camera decoder: read from the policy's own source when asked for, and run on its last layer."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.offline.geometry_view import describe_cameras
from lerobot_atlasvla.inspection.da3_cameras import DA3Cameras, distance_and_turn
from lerobot_atlasvla.model.geometry.da3 import DA3CameraDecoder
from tests.helpers import released


@pytest.fixture(params=["model.", ""])
def policy(root, tmp_path, request):
    """A tiny policy whose DA3 has its camera decoder, in a file of the Hub or a converted copy."""
    folder = released.write_da3(tmp_path / "eyes", prefix=f"{request.param}backbone.pretrained.")
    tensors = {n: t for n, t in load_file(folder / released.WEIGHTS).items() if ".cam_dec." not in n}
    torch.manual_seed(3)
    decoder = DA3CameraDecoder(2 * released.WIDTH).state_dict()
    tensors |= {f"{request.param}cam_dec.{name}": tensor for name, tensor in decoder.items()}
    save_file(tensors, folder / released.WEIGHTS)
    return released.released_policy(root, vision="da3", da3_model=str(folder), da3_output_layers=(4,))


def test_poses_of_every_view_whatever_the_policy_reads(policy):
    batch = released.preprocessed(policy.config)
    names = set(policy.state_dict())
    poses = DA3Cameras(policy)(batch)
    assert poses.shape == (3, 2, 9)
    assert poses.isfinite().all()
    assert poses[..., 7:].min() >= 0
    assert (poses[:, 0] - poses[:, 1]).abs().max() > 1e-4
    assert set(policy.state_dict()) == names


def test_policies_and_files_without_such_eyes_are_refused(root, policy):
    with pytest.raises(ValueError, match=r"vision=da3, da3_init=pretrained; this policy has vision=vggt"):
        DA3Cameras(released.released_policy(root))
    with pytest.raises(ValueError, match=r"missing: backbone\.0\.weight.*model\.cam_dec\."):
        DA3Cameras(released.released_policy(root, vision="da3"))


def test_distance_and_turn_are_relative_to_the_first_camera():
    half = 0.5**0.5
    poses = torch.tensor([[1.0, 0, 0, 0, 0, 0, 2.0, 1, 1], [1.0, 3, 4, 0, half, 0, half, 1, 1]])[None]
    distance, turn = distance_and_turn(poses)
    torch.testing.assert_close(distance, torch.tensor([[0.0, 5.0]]))
    torch.testing.assert_close(turn, torch.tensor([[0.0, 90.0]]), atol=1e-2, rtol=0)
    assert describe_cameras(("image", "wrist"), poses) == "wrist 5.000 from image, turned by 90 degrees"
    assert describe_cameras(("image",), poses[:, :1]) == "image alone"
