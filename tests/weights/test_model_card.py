"""The README.md of a pushed checkpoint says what is in it, where the rest comes from, and under which license."""

import json
import logging
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from huggingface_hub import ModelCard

from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import TASK, tiny_config
from tests.helpers import ROOT
from tests.helpers.hub.server import HubServer
from tests.helpers.released import files_of, released_policy, write_qwen2

DATASET = "lerobot/libero_spatial_image"
EYES = "facebook/VGGT-1B"
WORDS = "Qwen/Qwen3-0.6B-Base"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from lerobot_atlasvla.weights.download import forget

    forget()
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server
    forget()


def training(**overrides) -> SimpleNamespace:
    """What the card reads of LeRobot's TrainPipelineConfig."""
    dataset = SimpleNamespace(root=None, episodes=None, eval_split=0.0)
    values = {
        "dataset": dataset,
        "steps": 4321,
        "batch_size": 17,
        "seed": 1000,
        "resume": False,
        "optimizer": SimpleNamespace(type="adamw", lr=3e-4),
    }
    return SimpleNamespace(**(values | overrides))


def metadata(tasks: int = 1) -> SimpleNamespace:
    """What the card reads of LeRobot's LeRobotDatasetMetadata."""
    names = pd.DataFrame(index=[f"{TASK} {number}" for number in range(tasks)])
    return SimpleNamespace(total_episodes=432, total_frames=52970, fps=10, robot_type="panda", tasks=names)


def card_of(policy: AtlasVLAPolicy, **arguments) -> ModelCard:
    values = {"license": None, "tags": None, "cfg": training(), "dataset_meta": metadata()} | arguments
    card = policy.generate_model_card(DATASET, "atlasvla", **values)
    # What is on the Hub is text, read again by its own parser.
    read = ModelCard(str(card))
    assert read.data.to_dict() == card.data.to_dict()
    for remains in ("{{", "{%", "None", "Undefined", "\n\n\n", "``."):
        assert remains not in read.text, remains
    return read


def row(card: ModelCard, part: str) -> list[str]:
    (line,) = [line for line in card.text.splitlines() if line.startswith(f"| {part} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def published_policy(root, hub, **overrides) -> tuple[AtlasVLAPolicy, str, str]:
    eyes = hub.publish(EYES, files_of(root / "vggt"))
    words = hub.publish(WORDS, files_of(root / "qwen3"))
    return released_policy(root, **({"vggt_model": EYES, "language_model": WORDS} | overrides)), eyes, words


def test_slim_and_frozen(root, hub):
    policy, eyes, words = published_policy(root, hub)
    card = card_of(policy)
    assert card.data.license == "apache-2.0"
    assert card.data.get("license_name") is None
    assert card.data.base_model == [EYES, WORDS]
    assert card.data.datasets == DATASET
    assert card.data.library_name == "lerobot"
    assert card.data.pipeline_tag == "robotics"
    assert {"atlasvla", "lerobot", "robotics"} <= set(card.data.tags)
    sources = policy.config.backbone_sources
    inside = "no, frozen: loading reads it from the source and verifies the digest"
    assert row(card, "VGGT aggregator")[1:] == [
        f"`{EYES}`",
        f"`{eyes}`",
        f"`{sources['vggt']['digest']}`",
        "cc-by-nc-4.0",
        inside,
    ]
    assert row(card, "language model")[1:] == [
        f"`{WORDS}`",
        f"`{words}`",
        f"`{sources['language']['digest']}`",
        "apache-2.0",
        inside,
    ]
    assert "Running this policy takes the weights of `facebook/VGGT-1B`, which are for non-commercial use" in card.text
    assert "Non-commercial use only" not in card.text
    assert "Not loadable from here alone" not in card.text
    assert "Fallback" not in card.text
    assert "Started from random weights" not in card.text


def test_the_shape_of_the_policy_and_its_training(root, hub):
    policy, *_ = published_policy(root, hub)
    policy.config.repo_id = "me/mine"
    card = card_of(policy)
    assert "| fusion | late: VGGT sees images only" in card.text
    assert "| action head | L1 regression" in card.text
    assert "| state | `observation.state`, 8 values |" in card.text
    assert "| views | 2, resized to 32 x 32 |" in card.text
    assert "a chunk of 10 actions of size 7 out" in card.text
    assert f"Data: `{DATASET}`: 432 episodes, 52970 frames at 10 fps, robot `panda`." in card.text
    assert f"- {TASK} 0" in card.text
    assert "| steps | 4321 |" in card.text
    assert "| batch size (per process) | 17 |" in card.text
    assert "unfrozen" not in card.text
    assert "--env.camera_name_mapping='" in card.text
    assert "--env.task=libero_spatial " in card.text
    assert "No rollouts are reported" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    assert code.count('"me/mine"') == 2
    compile(code, "card", "exec")


def test_other_shapes(root):
    policy = released_policy(root, fusion="early", head="flow", vision="dinov2", use_state=False)
    card = card_of(policy)
    assert "early: language tokens go through VGGT's blocks" in card.text
    assert "flow matching, 10 denoising steps" in card.text
    assert "| state | not used |" in card.text
    assert "observation.state" not in card.text
    assert row(card, "DINOv2 vision tower")[1] == "`dinov2` (local)"


def test_full_weights_of_vggt_1b_are_non_commercial_whatever_is_asked(root, hub, caplog):
    policy, *_ = published_policy(root, hub, save_full_weights=True)
    with caplog.at_level(logging.WARNING):
        card = card_of(policy, license="mit")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.license_name == "vggt-1b-non-commercial"
    assert "**Non-commercial use only (cc-by-nc-4.0).**" in card.text
    assert row(card, "VGGT aggregator")[-1] == "**yes**, frozen"
    assert row(card, "language model")[-1] == "**yes**, frozen"
    assert "not mit (--policy.license)" in caplog.text


def test_a_trained_vggt_is_inside_and_non_commercial(root, hub):
    policy, *_ = published_policy(root, hub, freeze_vggt=False)
    card = card_of(policy)
    assert card.data.license == "cc-by-nc-4.0"
    assert row(card, "VGGT aggregator")[-1] == "**yes**, trained further"
    assert row(card, "language model")[-1].startswith("no, frozen")
    assert "| peak learning rate of unfrozen backbones | 1e-05 |" in card.text


def test_a_frozen_vggt_that_was_changed_is_inside(root, hub):
    policy, *_ = published_policy(root, hub)
    with torch.no_grad():
        next(policy.model.backbones()["vggt"].parameters()).add_(1)
    card = card_of(policy)
    assert card.data.license == "cc-by-nc-4.0"
    assert row(card, "VGGT aggregator")[-1] == "**yes**, frozen"


def test_the_commercial_vggt_keeps_its_own_license(root, hub):
    name = "facebook/VGGT-1B-Commercial"
    hub.publish(name, files_of(root / "vggt"))
    policy, *_ = published_policy(root, hub, vggt_model=name, freeze_vggt=False)
    card = card_of(policy)
    assert (card.data.license, card.data.license_name) == ("other", "vggt-license")
    assert "non-commercial" not in card.text.lower()


@pytest.mark.parametrize("size", ["SMALL", "BASE"])
@pytest.mark.parametrize("inside", [False, True])
def test_da3_is_apache_inside_or_not(root, hub, size, inside):
    name = f"depth-anything/DA3-{size}"
    commit = hub.publish(name, files_of(root / "da3"))
    hub.publish(WORDS, files_of(root / "qwen3"))
    policy = released_policy(
        root, vision="da3", da3_model=name, language_model=WORDS, freeze_da3=not inside, save_full_weights=inside
    )
    card = card_of(policy)
    assert (card.data.license, card.data.get("license_name")) == ("apache-2.0", None)
    assert card.data.base_model == [name, WORDS]
    digest = policy.config.backbone_sources["da3"]["digest"]
    assert row(card, "DA3 encoder")[1:5] == [f"`{name}`", f"`{commit}`", f"`{digest}`", "apache-2.0"]
    assert row(card, "geometry")[1] == "DA3 encoder, 6 blocks, width 32"
    assert row(card, "patch tokens")[1] == "DA3's own convolution"
    assert "VGGT" not in card.text
    assert "non-commercial" not in card.text.lower()


def test_a_local_da3_has_no_license_that_we_know(root):
    card = card_of(released_policy(root, vision="da3"))
    assert row(card, "DA3 encoder")[4] == "not known"


def test_unknown_weights_inside_make_the_license_unknown_unless_it_is_given(root):
    policy = released_policy(root, save_full_weights=True)
    card = card_of(policy)
    assert (card.data.license, card.data.license_name) == ("other", "as-the-included-weights")
    assert card_of(policy, license="mit").data.license == "mit"
    assert card.data.get("base_model") is None


def test_a_local_copy_in_the_shape_of_vggt_1b_is_taken_for_it(root):
    policy = released_policy(root, save_full_weights=True)
    policy.config.vggt_embed_dim = 1024
    policy.config.vggt_patch_embed = "dinov2_vitl14_reg"
    card = card_of(policy)
    assert card.data.license == "cc-by-nc-4.0"
    assert row(card, "VGGT aggregator")[4] == "cc-by-nc-4.0 (assumed: the weights have VGGT-1B's shape)"
    # Whoever knows better says so.
    card = card_of(policy, license="other")
    assert card.data.license == "other"
    assert "`facebook/VGGT-1B`" not in card.text


def test_local_sources_are_named_without_the_machine_s_folders(root, caplog):
    policy = released_policy(root)
    with caplog.at_level(logging.WARNING):
        card = card_of(policy)
    assert row(card, "VGGT aggregator")[1:3] == ["`vggt` (local)", "none"]
    assert "**Not loadable from here alone.**" in card.text
    assert "`--policy.vggt_model`" in card.text
    assert str(root) not in str(card)
    assert "local folders (vggt, qwen3)" in caplog.text


def test_a_policy_from_scratch(policy, caplog):
    with caplog.at_level(logging.WARNING):
        card = card_of(policy, license="bsd-3-clause", tags=["kitchen"])
    assert card.data.license == "bsd-3-clause"
    assert "kitchen" in card.data.tags
    assert card.data.get("base_model") is None
    assert "Started from random weights, as asked: VGGT aggregator, language model." in card.text
    assert row(card, "VGGT aggregator")[1] == "none, random weights (`vggt_init=random`)"
    assert row(card, "VGGT aggregator")[-1] == "yes, trained from scratch"
    assert "VGGT-1B" not in card.text
    assert not caplog.records


def test_the_substitute_for_qwen3_is_named(root, hub, tmp_path):
    write_qwen2(tmp_path / "qwen2")
    hub.publish(EYES, files_of(root / "vggt"))
    hub.publish("Qwen/Qwen2-0.5B", files_of(tmp_path / "qwen2"))
    policy = released_policy(root, vggt_model=EYES, language_model=WORDS)
    card = card_of(policy)
    assert row(card, "language model")[1] == "`Qwen/Qwen2-0.5B`"
    assert card.data.base_model == [EYES, "Qwen/Qwen2-0.5B"]
    assert f"**Fallback (language model):** {WORDS} could not be had, Qwen/Qwen2-0.5B takes its place." in card.text


def test_a_reloaded_policy_has_the_same_card(root, hub, tmp_path):
    policy, *_ = published_policy(root, hub)
    policy.save_pretrained(tmp_path / "saved")
    again = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert str(card_of(again)) == str(card_of(policy))


def test_an_adapter_is_no_whole_policy(root, hub):
    policy, *_ = published_policy(root, hub, freeze_vggt=False)
    policy.config.use_peft = True
    policy.config.pretrained_path = "someone/base-policy"
    card = card_of(policy)
    assert "a PEFT adapter and the layers trained with it, not a whole policy" in card.text
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == ["someone/base-policy", EYES, WORDS]
    assert "```python" not in card.text
    assert "Not loadable from here alone" not in card.text


def test_an_adapter_of_a_local_checkpoint(root, hub, tmp_path, caplog):
    policy, *_ = published_policy(root, hub)
    policy.config.use_peft = True
    policy.config.pretrained_path = str(tmp_path)
    with caplog.at_level(logging.WARNING):
        card = card_of(policy)
    assert "**Not loadable from here alone.** The adapter's base is a checkpoint on the machine" in card.text
    assert str(tmp_path) not in str(card)
    assert f"names the local checkpoint {tmp_path} as its base" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"root": "/data/here"}, f"`{DATASET}`, read from a local folder: 432 episodes"),
        ({"episodes": [1, 2, 5]}, "Of these, 3 episodes were selected."),
        ({"eval_split": 0.1}, "A fraction of 0.1 of the episodes of each task was held out."),
    ],
)
def test_what_was_done_with_the_data(policy, overrides, sentence):
    dataset = SimpleNamespace(**({"root": None, "episodes": None, "eval_split": 0.0} | overrides))
    card = card_of(policy, cfg=training(dataset=dataset))
    assert sentence in card.text
    assert "/data/here" not in str(card)


def test_where_training_started(policy, tmp_path):
    policy.config.pretrained_path = str(tmp_path)
    assert "Training started from a local checkpoint" in card_of(policy).text
    assert "Training started" not in card_of(policy, cfg=training(resume=True)).text
    policy.config.pretrained_path = "someone/earlier"
    card = card_of(policy)
    assert "Training started from `someone/earlier`" in card.text
    assert card.data.base_model == ["someone/earlier"]


def test_a_blind_policy_is_not_said_to_see():
    card = card_of(AtlasVLAPolicy(tiny_config(views=("none",))))
    assert "no camera view (a blind control)" in card.text
    for row_of_images in ("views", "patch tokens", "geometry", "fusion"):
        assert f"| {row_of_images} |" not in card.text
    assert "`observation` holds `observation.state`" in card.text


def test_many_tasks_are_cut_short(policy):
    card = card_of(policy, dataset_meta=metadata(13))
    assert card.text.count(f"- {TASK}") == 10
    assert "- and 3 more" in card.text


def test_nothing_is_made_up_where_nothing_is_known(policy):
    card = card_of(policy, cfg=None, dataset_meta=None)
    assert f"Data: `{DATASET}`.\n" in card.text
    assert "train_config.json" not in card.text


def test_cameras_that_libero_does_not_have(policy):
    features = policy.config.input_features
    renamed = {key.replace("image", "front", 1) if "wrist" in key else key: value for key, value in features.items()}
    policy.config.input_features = renamed
    policy.config.views = ()
    card = card_of(policy)
    assert "--env.type=<environment>" in card.text
    assert "--rename_map=" in card.text


def test_results_of_rollouts(policy, tmp_path):
    tasks = [("libero_spatial", 0, [True] * 19 + [False]), ("libero_spatial", 3, [False] * 20)]
    info = {"per_task": [{"task_group": g, "task_id": t, "metrics": {"successes": s}} for g, t, s in tasks]}
    report = tmp_path / "eval_info.json"
    report.write_text(json.dumps(info))
    card = card_of(policy, report=report)
    assert "| libero_spatial 0 | 19/20 = 95.0 % [76.4, 99.1] |" in card.text
    assert "| libero_spatial 3 | 0/20 = 0.0 % [0.0, 16.1] |" in card.text
    assert "| all | 19/40 = 47.5 %" in card.text
    assert "No rollouts" not in card.text


@pytest.mark.parametrize("content", ["", "{}", '{"per_task": []}', '{"per_task": [{"task_id": 1}]}'])
def test_a_useless_report_is_refused(policy, tmp_path, content):
    report = tmp_path / "eval_info.json"
    report.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(report))):
        card_of(policy, report=report)


def test_the_template_is_in_the_wheel():
    included = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert "lerobot_atlasvla/weights/model_card.md" in included


def test_the_card_needs_no_network(policy, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the card asked the network")

    monkeypatch.setattr(ModelCard, "validate", refuse)
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", refuse)
    card_of(policy)
