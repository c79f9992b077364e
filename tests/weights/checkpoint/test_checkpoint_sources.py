"""The pretrained parts that a checkpoint only names: gone, moved, or others than they were."""

import shutil

import pytest
import torch

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.weights.download import WeightsError
from tests.helpers.released import released_policy, write_vggt
from tests.weights.checkpoint.test_checkpoint import (
    DINOV2,
    FLAGS,
    FOLDERS,
    PREFIXES,
    actions,
    edit_config,
    written_parts,
)


@pytest.mark.parametrize("part", sorted(PREFIXES))
def test_a_source_that_is_gone_is_named_with_its_flag(root, folder, part):
    released_policy(root, **DINOV2).save_pretrained(folder)
    shutil.rmtree(root / FOLDERS[part])
    with pytest.raises(WeightsError) as error:
        AtlasVLAPolicy.from_pretrained(folder)
    for needle in (str(root / FOLDERS[part]), f"--policy.{FLAGS[part]}"):
        assert needle in str(error.value)
    # The checkpoint can't be loaded with a part at random: to offer that would mislead.
    assert "random" not in str(error.value)


def test_a_source_on_the_hub_that_is_gone_comes_with_the_command_that_fetches_it(root, folder):
    released_policy(root).save_pretrained(folder)
    commit = "0123456789" * 4

    def onto_hub(content):
        content["vggt_model"] = content["backbone_sources"]["vggt"]["source"] = "someone/eyes"
        content["backbone_sources"]["vggt"]["revision"] = commit

    edit_config(folder, onto_hub)
    with pytest.raises(WeightsError) as error:
        AtlasVLAPolicy.from_pretrained(folder)
    for needle in (f"hf download someone/eyes --revision {commit}", "--policy.vggt_model"):
        assert needle in str(error.value)


@pytest.mark.parametrize("part", sorted(PREFIXES))
def test_a_source_that_moved_is_found_under_its_new_name(root, folder, part, tmp_path):
    policy = released_policy(root, **DINOV2)
    policy.save_pretrained(folder)
    moved = shutil.move(root / FOLDERS[part], tmp_path / "moved")
    config = AtlasVLAConfig.from_pretrained(folder)
    setattr(config, FLAGS[part], str(moved))
    loaded = AtlasVLAPolicy.from_pretrained(folder, config=config)
    assert torch.equal(actions(loaded), actions(policy))
    loaded.save_pretrained(tmp_path / "again")
    assert written_parts(tmp_path / "again") == set()
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(tmp_path / "again")), actions(policy))


@pytest.mark.parametrize("how", ["at the same place", "by the flag"])
def test_other_weights_are_refused_with_both_digests(root, folder, how):
    policy = released_policy(root)
    policy.save_pretrained(folder)
    config = AtlasVLAConfig.from_pretrained(folder)
    if how == "by the flag":
        config.vggt_model = str(root / "other")
    write_vggt(root / ("other" if how == "by the flag" else "vggt"), seed=9)
    found = released_policy(root, vggt_model=config.vggt_model).config.backbone_sources["vggt"]["digest"]
    with pytest.raises(WeightsError) as error:
        AtlasVLAPolicy.from_pretrained(folder, config=config)
    for needle in (found, policy.config.backbone_sources["vggt"]["digest"], "--policy.vggt_model", config.vggt_model):
        assert needle in str(error.value)
