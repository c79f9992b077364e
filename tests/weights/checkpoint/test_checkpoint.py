"""Checkpoints without frozen pretrained parts: small, complete with their sources, and never something else."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lerobot_atlasvla import AtlasVLAConfig, AtlasVLAPolicy
from lerobot_atlasvla.weights import checkpoint
from lerobot_atlasvla.weights.download import WeightsError
from tests.helpers.released import (
    WEIGHTS,
    change_file,
    open_gates,
    preprocessed,
    released_config,
    released_policy,
)

PREFIXES = {
    "vggt": "model.aggregator.",
    "language": "model.language.backbone.",
    "vision_tower": "model.vision_tower.backbone.",
}
FOLDERS = {"vggt": "vggt", "language": "qwen3", "vision_tower": "dinov2"}
FLAGS = {"vggt": "vggt_model", "language": "language_model", "vision_tower": "vision_tower"}
DINOV2 = {"vision": "dinov2"}


def written_parts(folder) -> set[str]:
    names = load_file(folder / WEIGHTS)
    return {part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in names)}


def actions(policy: AtlasVLAPolicy) -> torch.Tensor:
    """Of an input that every part of the network sees."""
    open_gates(policy)
    return policy.predict_action_chunk(fixed_batch(policy.config))


def fixed_batch(config: AtlasVLAConfig) -> dict:
    generator = torch.Generator().manual_seed(5)
    batch = {key: torch.rand(2, 3, *config.image_size, generator=generator) for key in config.view_keys}
    return batch | {
        "observation.state": torch.rand(2, 8, generator=generator),
        "observation.language.tokens": torch.randint(1, 200, (2, 6), generator=generator),
        "observation.language.attention_mask": torch.ones(2, 6, dtype=torch.bool),
    }


def trained_a_little(policy: AtlasVLAPolicy) -> AtlasVLAPolicy:
    batch = preprocessed(policy.config)
    policy.train()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    for _ in range(2):
        policy(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy.eval()


def edit_config(folder, change) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


# --- what is written, and that it comes back ---


@pytest.mark.parametrize(
    "overrides",
    [{}, DINOV2, {"fusion": "early"}, {"vision": "patch"}, {"vision": "da3"}, {"backbone_dtype": "bfloat16"}],
)
def test_frozen_pretrained_parts_are_left_out_and_come_back(root, folder, overrides):
    policy = trained_a_little(released_policy(root, **overrides))
    policy.save_pretrained(folder)
    assert written_parts(folder) == set()
    own = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    assert (folder / WEIGHTS).stat().st_size < own + 20_000
    loaded = AtlasVLAPolicy.from_pretrained(folder)
    assert torch.equal(actions(loaded), actions(policy))
    for (name, mine), (_, other) in zip(policy.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert mine.dtype == other.dtype, name
        assert torch.equal(mine, other), name


def test_a_checkpoint_saved_from_a_loaded_one_is_slim_again_and_the_same(root, folder, tmp_path):
    policy = released_policy(root, **DINOV2)
    policy.save_pretrained(folder)
    AtlasVLAPolicy.from_pretrained(folder).save_pretrained(tmp_path / "again")
    first, second = load_file(folder / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert (tmp_path / "again" / "config.json").read_text() == (folder / "config.json").read_text()


@pytest.mark.parametrize("overrides", [DINOV2, {"backbone_dtype": "bfloat16"}])
def test_a_full_checkpoint_needs_no_sources(root, folder, overrides):
    policy = trained_a_little(released_policy(root, save_full_weights=True, **overrides))
    policy.save_pretrained(folder)
    assert written_parts(folder) == {"vggt", "language", *(["vision_tower"] if overrides == DINOV2 else [])}
    shutil.rmtree(root)
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(folder)), actions(policy))


@pytest.mark.parametrize("part", sorted(PREFIXES))
@pytest.mark.parametrize("trained", [False, True])
def test_a_part_that_learns_is_always_written(root, folder, part, trained):
    policy = released_policy(root, **DINOV2, **{f"freeze_{part}": False})
    if trained:
        trained_a_little(policy)
    policy.save_pretrained(folder)
    assert written_parts(folder) == {part}
    shutil.rmtree(root / FOLDERS[part])
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(folder)), actions(policy))


@pytest.mark.parametrize("part", sorted(PREFIXES))
@pytest.mark.parametrize("freeze", [True, None])
def test_a_part_from_random_weights_is_always_written(root, folder, part, freeze):
    overrides = {f"{part}_init": "random", f"freeze_{part}": freeze} | DINOV2
    policy = released_policy(root, **overrides)
    policy.save_pretrained(folder)
    assert written_parts(folder) == {part}
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(folder)), actions(policy))


@pytest.mark.parametrize("part", sorted(PREFIXES))
def test_a_frozen_part_that_was_changed_is_written_with_a_warning(root, folder, caplog, part):
    policy = released_policy(root, **DINOV2)
    module = policy.model.backbones()[part]
    with torch.no_grad():
        next(p for p in module.parameters() if p.ndim == 2).view(-1)[3] += 0.5
    policy.save_pretrained(folder)
    assert written_parts(folder) == {part}
    assert [r for r in caplog.records if r.levelname == "WARNING" and part in r.message and "checkpoint" in r.message]
    loaded = AtlasVLAPolicy.from_pretrained(folder)
    assert torch.equal(actions(loaded), actions(policy))
    caplog.clear()
    loaded.save_pretrained(folder)
    assert written_parts(folder) == {part}


def next_number(weight):
    weight[2, 1] = torch.nextafter(weight[2, 1], torch.tensor(9.0))


def swap_rows(weight):
    weight[:2] = weight[[1, 0]]


def swap_signs(weight):
    row = weight[0]
    positive, negative = int((row > 0).nonzero()[0]), int((row < 0).nonzero()[0])
    row[[positive, negative]] *= -1


@pytest.mark.parametrize("change", [None, next_number, swap_rows, swap_signs])
def test_any_change_of_a_frozen_part_is_noticed(root, folder, change):
    """A change that is missed would be left out of the checkpoint: what is loaded would not be what was saved."""
    policy = released_policy(root)
    if change:
        with torch.no_grad():
            change(policy.model.aggregator.frame_blocks[0].mlp.fc1.weight)
    policy.save_pretrained(folder)
    assert written_parts(folder) == ({"vggt"} if change else set())
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(folder)), actions(policy))


def test_a_frozen_part_in_another_dtype_is_written_as_it_is(root, folder):
    policy = released_policy(root)
    policy.model.aggregator.to(torch.bfloat16)
    policy.save_pretrained(folder)
    assert written_parts(folder) == {"vggt"}


def test_fine_tuning_from_a_slim_checkpoint_writes_what_it_now_trains(root, folder, tmp_path):
    policy = released_policy(root)
    policy.save_pretrained(folder)
    config = AtlasVLAConfig.from_pretrained(folder)
    config.freeze_vggt = False
    tuned = AtlasVLAPolicy.from_pretrained(folder, config=config)
    assert torch.equal(actions(tuned), actions(policy))
    assert all(p.requires_grad for p in tuned.model.aggregator.parameters())
    assert not any(p.requires_grad for p in tuned.model.language.parameters())
    trained_a_little(tuned).save_pretrained(tmp_path / "tuned")
    assert written_parts(tmp_path / "tuned") == {"vggt"}
    shutil.rmtree(root / "vggt")
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(tmp_path / "tuned")), actions(tuned))


def test_another_backbone_dtype_may_be_asked_for_when_loading(root, folder):
    released_policy(root).save_pretrained(folder)
    config = AtlasVLAConfig.from_pretrained(folder)
    config.backbone_dtype = "bfloat16"
    loaded = AtlasVLAPolicy.from_pretrained(folder, config=config)
    expected = load_file(root / "vggt" / WEIGHTS)["aggregator.camera_token"].bfloat16()
    assert torch.equal(loaded.model.aggregator.camera_token, expected)


def test_loading_and_saving_leave_the_settings_as_they_are(root, folder, tmp_path):
    released_policy(root, **DINOV2, head="flow", rtc_config={"execution_horizon": 5}).save_pretrained(folder)
    config = AtlasVLAConfig.from_pretrained(folder)
    before = copy.deepcopy(config)
    AtlasVLAPolicy.from_pretrained(folder, config=config).save_pretrained(tmp_path / "again")
    assert config == before


# --- damaged checkpoints ---


def test_a_full_checkpoint_needs_no_record_of_its_sources(root, folder):
    policy = released_policy(root, save_full_weights=True)
    policy.save_pretrained(folder)
    edit_config(folder, lambda content: content.pop("backbone_sources"))
    assert torch.equal(actions(AtlasVLAPolicy.from_pretrained(folder)), actions(policy))


def test_weights_gathered_by_the_host_are_the_ones_written(root, folder):
    """Sharded training hands over a state dict of its own."""
    policy = released_policy(root)
    gathered = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    gathered["model.head.proj.bias"] += 1
    policy.save_pretrained(folder, state_dict=gathered)
    assert written_parts(folder) == set()
    assert torch.equal(load_file(folder / WEIGHTS)["model.head.proj.bias"], gathered["model.head.proj.bias"])


def test_a_checkpoint_whose_config_forgot_the_sources_is_refused(root, folder):
    released_policy(root).save_pretrained(folder)
    edit_config(folder, lambda content: content.pop("backbone_sources"))
    with pytest.raises(WeightsError, match=r"backbone_sources\.vggt"):
        AtlasVLAPolicy.from_pretrained(folder)


def test_a_checkpoint_whose_config_forgot_the_architectures_is_refused(root, folder):
    released_policy(root).save_pretrained(folder)
    edit_config(folder, lambda content: content.pop("backbone_architectures"))
    with pytest.raises(ValueError, match="backbone_architectures"):
        AtlasVLAPolicy.from_pretrained(folder)


def test_a_reference_that_the_config_does_not_have_is_refused(root, folder):
    released_policy(root).save_pretrained(folder)
    config = AtlasVLAConfig.from_pretrained(folder)
    config.vggt_init = "random"
    with pytest.raises(WeightsError, match=r"(?s)model\.safetensors.*'vggt'"):
        AtlasVLAPolicy.from_pretrained(folder, config=config)


NAME = "model.head.proj.weight"


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        (lambda t: t.pop(NAME), ["missing", NAME]),
        (lambda t: t.update(extra=torch.zeros(1)), ["unexpected", "extra"]),
        (lambda t: t.update({"model.aggregator.camera_token": torch.zeros(1)}), ["model.aggregator.camera_token"]),
        (lambda t: t.update({NAME: torch.zeros(2, 3)}), [NAME, "(2, 3)", "(7, 32)"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(root, folder, change, needles):
    released_policy(root).save_pretrained(folder)
    change_file(folder / WEIGHTS, change)
    with pytest.raises(WeightsError) as error:
        AtlasVLAPolicy.from_pretrained(folder)
    for needle in [str(folder / WEIGHTS), *needles]:
        assert needle in str(error.value)


@pytest.mark.parametrize("size", [0, 4, 100, -1000])
def test_a_truncated_file_is_refused(root, folder, size):
    released_policy(root).save_pretrained(folder)
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match="damaged") as error:
        AtlasVLAPolicy.from_pretrained(folder)
    assert str(file) in str(error.value)


def test_a_slim_checkpoint_is_not_taken_for_a_full_one(root, folder):
    """Without its list of references, everything it lacks is missing."""
    from safetensors.torch import save_file

    released_policy(root).save_pretrained(folder)
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    with pytest.raises(WeightsError, match=r"missing: model\.aggregator\."):
        AtlasVLAPolicy.from_pretrained(folder)


def test_a_folder_without_weights_is_named(root, folder):
    released_policy(root).save_pretrained(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=str(folder / WEIGHTS)):
        AtlasVLAPolicy.from_pretrained(folder)


def test_saving_that_fails_leaves_a_checkpoint_that_still_loads_and_no_rubbish(root, folder, monkeypatch):
    released_policy(root).save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(tensors, file, metadata=None):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full_disk)
    with pytest.raises(OSError, match="No space left"):
        released_policy(root, vision="patch", save_full_weights=True).save_pretrained(folder)
    assert (folder / WEIGHTS).read_bytes() == before[WEIGHTS]
    assert {path.name for path in folder.iterdir()} == before.keys()
    AtlasVLAPolicy.from_pretrained(folder)


def test_the_saved_settings_are_the_ones_asked_for(root, folder):
    """Reading the weights resolves nothing in the settings themselves: freeze_* stay unset, paths stay as named."""
    released_policy(root).save_pretrained(folder)
    loaded, asked = AtlasVLAConfig.from_pretrained(folder), released_config(root)
    for name in ("freeze_vggt", "freeze_language", "vggt_model", "language_model", "vggt_revision", "backbone_dtype"):
        assert getattr(loaded, name) == getattr(asked, name), name
