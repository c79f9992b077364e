"""A policy on a backbone that is on the Hub: known before its weights are read."""

import pytest
import torch

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.weights import backbones
from lerobot_atlasvla.weights.download import ResolvedWeights, WeightsError
from tests.conftest import PIXELS
from tests.helpers.geometry.backbone import write_backbone
from tests.helpers.hub.server import HubServer
from tests.helpers.released import files_of, preprocessed, write_vggt
from tests.policy.pretrained_geometry.policies import make, refusal, settings


def from_hub(folder) -> dict[str, ResolvedWeights]:
    return {"vggt": ResolvedWeights("user/mini", "c0ffee", (folder / "model.safetensors",), folder)}


def test_sizes_of_a_backbone_on_the_hub_are_known_once_it_is_found(backbone):
    config = AtlasVLAConfig(**settings("user/mini"))
    assert config.image_size == (224, 224)
    backbones.take_sizes(config, from_hub(backbone))
    assert (config.image_size, config.vggt_embed_dim, config.vggt_output_layers) == ((PIXELS, PIXELS), 32, (1,))
    assert config.backbone_architectures["vggt"]["views"] == ["wrist", "scene"]


@pytest.mark.parametrize(
    ("changes", "word"), [({"vggt_num_heads": 8}, "--policy.vggt_num_heads"), ({"random_shift": 40}, "random_shift")]
)
def test_what_contradicts_a_backbone_on_the_hub_is_refused(backbone, changes, word):
    with pytest.raises(WeightsError, match=word):
        backbones.take_sizes(AtlasVLAConfig(**settings("user/mini", **changes)), from_hub(backbone))


BASE = {"query_conditioning": "landmarks", "landmark_frame": "base"}


@pytest.fixture
def hub(monkeypatch, tmp_path, nothing_downloaded):
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server


SIZES = {"patch_embed": "conv_stem", "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
GIVEN = {f"vggt_{name}": value for name, value in (SIZES | {"num_register_tokens": 2, "output_layers": (1,)}).items()}


@pytest.mark.parametrize("given", [{}, GIVEN | {"image_size": (PIXELS, PIXELS)}], ids=["unset", "given"])
def test_a_backbone_on_the_hub_may_see_the_base_itself(hub, tmp_path, given):
    """Also one as wide as no VGGT, whose own depth head it does not have."""
    folder = write_backbone(tmp_path / "scene", "scene", frame="base", **SIZES)
    hub.publish("someone/scene", files_of(folder))
    policy = make("someone/scene", **BASE, **given)
    assert policy.model.landmarks.point_frame == policy.model.landmarks.frame == "base"
    policy.save_pretrained(tmp_path / "saved")
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    batch = preprocessed(policy.config)
    actions = policy.predict_action_chunk(batch)
    assert torch.equal(again.predict_action_chunk(batch), actions)
    assert torch.equal(make(folder, **BASE).predict_action_chunk(batch), actions)


@pytest.mark.parametrize("given", [{}, GIVEN | {"image_size": (PIXELS, PIXELS)}], ids=["unset", "given"])
def test_a_policy_on_a_local_backbone_that_sees_the_base_is_saved_and_loaded(tmp_path, given):
    policy = make(write_backbone(tmp_path / "scene", "scene", frame="base", **SIZES), **BASE, **given)
    policy.save_pretrained(tmp_path / "saved")
    batch = preprocessed(policy.config)
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    # What it says of the backbone's frame is looked at again.
    config = tmp_path / "saved/config.json"
    config.write_text(config.read_text().replace('"frame": "base"', '"frame": "first_view"'))
    with pytest.raises(ValueError, match=r"--policy\.hand_eye"):
        AtlasVLAPolicy.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("kind", ["of the first view", "without a record"])
def test_a_backbone_on_the_hub_that_does_not_is_refused_before_its_weights_are_read(hub, tmp_path, monkeypatch, kind):
    write = write_vggt if kind == "without a record" else write_backbone
    hub.publish("someone/eyes", files_of(write(tmp_path / "eyes")))
    monkeypatch.setattr(backbones, "read", None)
    message = refusal("someone/eyes", **BASE)
    assert "someone/eyes" in message
    assert "--policy.hand_eye" in message


@pytest.mark.parametrize("name", ["facebook/VGGT-1B", "facebook/VGGT-1B-Commercial"])
def test_vggt_1b_is_refused_without_a_download(hub, name):
    assert "--policy.hand_eye" in refusal(name, **BASE)
    assert hub.requests == []
