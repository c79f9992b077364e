"""Every kind of network is exported, and equals PyTorch (the command's own check, at a tenth of its tolerance)."""

import pytest
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature

from lerobot_atlasvla import make_atlasvla_pre_post_processors
from lerobot_atlasvla.export.exporter import export
from lerobot_atlasvla.export.settings import ExportConfig, ExportError
from tests.conftest import IMAGE, STATE, STATE_DIM, WRIST, dataset_stats
from tests.export.conftest import INSTRUCTIONS
from tests.helpers import released

EMPTY = "observation.images.empty_camera_0"
VARIANTS = {
    "early fusion": {"fusion": "early", "vision": "patch", "vision_patch_size": 8, "vision_patch_dim": 16},
    "da3": {"vision": "da3", "image_size": (28, 28)},
    "dinov2 in vggt": {
        "vggt_patch_embed": "dinov2_vits14_reg",
        "vggt_embed_dim": 384,
        "vggt_num_heads": 6,
        "vggt_patch_size": 14,
        "image_size": (28, 42),
    },
    "no blocks": {"vggt_blocks": "removed"},
    "one view": {"views": (WRIST,)},
    "no state": {"use_state": False},
    "queries": {"num_action_queries": 4, "condition_queries": False},
    "bfloat16": {"dtype": "bfloat16"},
    "large cameras": {
        "input_features": {
            IMAGE: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)),
            WRIST: PolicyFeature(FeatureType.VISUAL, (3, 120, 160)),
            STATE: PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
        }
    },
    "state in parts": {
        "input_features": {
            IMAGE: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
            f"{STATE}.arm": PolicyFeature(FeatureType.STATE, (5,)),
            f"{STATE}.gripper": PolicyFeature(FeatureType.STATE, (1,)),
        }
    },
    "other normalization": {
        "normalization_mapping": {
            "VISUAL": NormalizationMode.MEAN_STD,
            "STATE": NormalizationMode.MIN_MAX,
            "ACTION": NormalizationMode.QUANTILES,
        }
    },
}
RELEASED = {
    "released vggt": {},
    "released da3": {"vision": "da3"},
    "vision tower": {"vision": "dinov2", "image_size": (42, 56)},
}


def statistics() -> dict:
    """Those of the fixtures, with parts of a state, images, ranges and quantiles."""
    stats = dataset_stats()
    stats |= {f"{STATE}.arm": {k: v[:5] for k, v in stats[STATE].items()}}
    stats |= {f"{STATE}.gripper": {k: v[5:6] for k, v in stats[STATE].items()}}
    for known in stats.values():
        known |= {"min": known["mean"] - 2 * known["std"], "max": known["mean"] + 2 * known["std"]}
        known |= {"q01": known["mean"] - known["std"], "q99": known["mean"] + known["std"]}
    images = {"mean": stats[STATE]["mean"][1:4, None, None], "std": stats[STATE]["std"][:3, None, None]}
    return stats | {IMAGE: images, WRIST: images}


def check(policy, folder, **settings) -> dict:
    policy.save_pretrained(folder / "checkpoint")
    for pipeline in make_atlasvla_pre_post_processors(policy.config, statistics()):
        pipeline.save_pretrained(folder / "checkpoint")
    settings = {"instructions": INSTRUCTIONS, "output_dir": folder / "out"} | settings
    about = export(ExportConfig(checkpoint=folder / "checkpoint", **settings))
    assert 0 < about["deviation"]["largest_normalized"] < 1e-5
    return about


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_from_scratch(tmp_path, name):
    check(released.tiny_policy(**VARIANTS[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_with_released_weights(tmp_path, name):
    root = released.write_all(tmp_path / "weights")
    about = check(released.released_policy(root, **RELEASED[name]), tmp_path)
    assert about["parameters"] > 0
    assert "license not known" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_an_empty_camera_is_there_if_it_is_named(tmp_path):
    policy = released.tiny_policy(empty_cameras=1)
    assert list(check(policy, tmp_path / "without")["cameras"]) == [IMAGE, WRIST]
    about = check(policy, tmp_path / "with", image_sizes={EMPTY: [24, 32]})
    assert about["cameras"] == {IMAGE: [32, 32], WRIST: [32, 32], EMPTY: [24, 32]}


def test_only_empty_cameras_are_refused(tmp_path):
    folder = released.save_checkpoint(tmp_path / "checkpoint", empty_cameras=1, views=(EMPTY,))
    with pytest.raises(ExportError, match=r"only cameras that may be absent, .*; name those that are there"):
        export(ExportConfig(checkpoint=folder, output_dir=tmp_path / "out", instructions=["x"]))
