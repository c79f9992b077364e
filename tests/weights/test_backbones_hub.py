"""Pretrained parts from the Hub: what is downloaded and recorded, and what happens when it can't be."""

import json

import pytest

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.weights import backbones, download
from lerobot_atlasvla.weights.download import WeightsError, forget
from tests.conftest import TASK
from tests.helpers.hub.server import HubServer, closed_port, point_client_to
from tests.helpers.released import (
    WEIGHTS,
    files_of,
    preprocessed,
    released_config,
    released_policy,
    reversed_byte_tokenizer,
    write_all,
    write_qwen2,
    write_vggt,
)

VGGT_ID = "someone/eyes"


pytestmark = pytest.mark.usefixtures("nothing_downloaded")


@pytest.fixture
def root(tmp_path):
    return write_all(tmp_path / "released")


def go_away(monkeypatch) -> None:
    point_client_to(closed_port(), monkeypatch)
    forget()


def saved_config(policy: AtlasVLAPolicy, folder) -> dict:
    policy.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_folder_file_and_hub_id_are_the_same_weights(root, hub):
    commit = hub.publish(VGGT_ID, files_of(root / "vggt"))
    write_vggt(root / "pickled", suffix="pt")
    names = [str(root / "vggt"), str(root / "vggt" / WEIGHTS), str(root / "pickled"), VGGT_ID]
    sources = [released_policy(root, vggt_model=name).config.backbone_sources["vggt"] for name in names]
    assert [source["source"] for source in sources] == names
    assert [source["revision"] for source in sources] == ["", "", "", commit]
    assert len({source["digest"] for source in sources}) == 1
    other = str(write_vggt(root / "other", seed=9))
    assert released_policy(root, vggt_model=other).config.backbone_sources["vggt"]["digest"] != sources[0]["digest"]


def test_from_the_hub_only_what_is_needed_is_downloaded(root, hub, tmp_path):
    repos = {"vggt": VGGT_ID, "qwen3": "someone/words", "dinov2": "someone/tower"}
    commits = {name: hub.publish(repo, files_of(root / name)) for name, repo in repos.items()}
    config = released_config(
        root,
        vision="dinov2",
        vggt_model=repos["vggt"],
        language_model=repos["qwen3"],
        vision_tower=repos["dinov2"],
    )
    policy = AtlasVLAPolicy(config)
    make_atlasvla_pre_post_processors(config)
    assert set(hub.downloads()) == {WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"}
    sources = saved_config(policy, tmp_path / "saved")["backbone_sources"]
    for part, name in (("vggt", "vggt"), ("language", "qwen3"), ("vision_tower", "dinov2")):
        assert sources[part]["source"] == repos[name]
        assert sources[part]["revision"] == commits[name]
        assert sources[part]["digest"].startswith("sha256:")
        assert "fallback" not in sources[part]


def test_a_copy_in_the_cache_is_used_with_a_warning_and_noted_in_the_checkpoint(
    root, hub, tmp_path, monkeypatch, caplog
):
    commit = hub.publish(VGGT_ID, files_of(root / "vggt"))
    fresh = released_policy(root, vggt_model=VGGT_ID)
    go_away(monkeypatch)
    cached = released_policy(root, vggt_model=VGGT_ID)
    assert any(VGGT_ID in r.message and "cache" in r.message for r in caplog.records if r.levelname == "WARNING")
    source = saved_config(cached, tmp_path / "saved")["backbone_sources"]["vggt"]
    assert "out of reach" in source["fallback"]
    assert (source["revision"], source["digest"]) == (commit, fresh.config.backbone_sources["vggt"]["digest"])


def test_a_checkpoint_finds_its_commit_although_the_branch_has_moved_on(root, hub, tmp_path, monkeypatch):
    commit = hub.publish(VGGT_ID, files_of(root / "vggt"))
    released_policy(root, vggt_model=VGGT_ID).save_pretrained(tmp_path / "saved")
    hub.publish(VGGT_ID, files_of(write_vggt(root / "newer", seed=9)))
    forget()
    hub.requests.clear()
    loaded = AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert loaded.config.backbone_sources["vggt"]["revision"] == commit
    assert hub.requests == []
    hub.use(monkeypatch, tmp_path / "another cache")
    forget()
    AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert hub.downloads() == [WEIGHTS]


# --- the substitute of the default language model ---


def publish_substitute(hub: HubServer, root) -> str:
    return hub.publish(backbones.FALLBACK_LANGUAGE, files_of(write_qwen2(root / "qwen2")))


@pytest.mark.parametrize("order", ["policy first", "processors first"])
@pytest.mark.parametrize("reach", ["hub", "cache"])
def test_qwen2_takes_the_place_of_the_default_and_everyone_is_told(
    root, hub, tmp_path, monkeypatch, caplog, order, reach
):
    commit = publish_substitute(hub, root)
    if reach == "cache":
        download.resolve(backbones.FALLBACK_LANGUAGE, companions=backbones.PARTS["language"].companions, flag="")
        go_away(monkeypatch)
    config = released_config(root, language_model=backbones.DEFAULT_LANGUAGE)
    make = make_atlasvla_pre_post_processors
    if order == "policy first":
        policy, (preprocessor, _) = AtlasVLAPolicy(config), make(config)
    else:
        (preprocessor, _), policy = make(config), AtlasVLAPolicy(config)
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING" and "FALLBACK" in r.message]
    assert len(warnings) == 1
    assert backbones.DEFAULT_LANGUAGE in warnings[0]
    assert backbones.FALLBACK_LANGUAGE in warnings[0]
    assert type(policy.model.language.backbone).__name__ == "Qwen2Model"
    saved = saved_config(policy, tmp_path / "saved")
    assert saved["language_model"] == backbones.FALLBACK_LANGUAGE
    source = saved["backbone_sources"]["language"]
    assert (source["source"], source["revision"]) == (backbones.FALLBACK_LANGUAGE, commit)
    assert backbones.DEFAULT_LANGUAGE in source["fallback"]
    assert ("out of reach" in source["fallback"]) == (reach == "cache")
    tokenizer = preprocessor.steps[2].input_tokenizer
    assert tokenizer(TASK)["input_ids"] == reversed_byte_tokenizer()(TASK)["input_ids"]
    AtlasVLAPolicy.from_pretrained(tmp_path / "saved").predict_action_chunk(preprocessed(config))


def test_the_default_language_model_is_preferred_to_its_substitute(root, hub, caplog):
    publish_substitute(hub, root)
    hub.publish(backbones.DEFAULT_LANGUAGE, files_of(root / "qwen3"))
    policy = released_policy(root, language_model=backbones.DEFAULT_LANGUAGE)
    assert policy.config.language_model == backbones.DEFAULT_LANGUAGE
    assert "FALLBACK" not in caplog.text
    assert "fallback" not in policy.config.backbone_sources["language"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"language_model": "someone/words"},
        {"language_model": backbones.DEFAULT_LANGUAGE, "language_revision": "v1"},
    ],
)
def test_a_language_model_that_was_chosen_has_no_substitute(root, hub, overrides):
    publish_substitute(hub, root)
    config = released_config(root, **overrides)
    for make in (AtlasVLAPolicy, make_atlasvla_pre_post_processors):
        with pytest.raises(WeightsError, match=r"--policy\.language_model") as error:
            make(config)
        assert f"hf download {overrides['language_model']}" in str(error.value)
    assert config.language_model == overrides["language_model"]


def test_without_the_default_and_its_substitute_the_error_names_both(root, hub):
    with pytest.raises(WeightsError) as error:
        released_policy(root, language_model=backbones.DEFAULT_LANGUAGE)
    for needle in (
        f"hf download {backbones.DEFAULT_LANGUAGE}",
        backbones.FALLBACK_LANGUAGE,
        "--policy.language_model",
        "--policy.language_init=random",
    ):
        assert needle in str(error.value)


def test_a_checkpoint_made_with_the_default_is_never_filled_from_its_substitute(root, hub, tmp_path, monkeypatch):
    hub.publish(backbones.DEFAULT_LANGUAGE, files_of(root / "qwen3"))
    released_policy(root, language_model=backbones.DEFAULT_LANGUAGE).save_pretrained(tmp_path / "saved")
    hub._commits.clear()
    publish_substitute(hub, root)
    hub.use(monkeypatch, tmp_path / "another cache")
    forget()
    with pytest.raises(WeightsError, match=f"hf download {backbones.DEFAULT_LANGUAGE} --revision") as error:
        AtlasVLAPolicy.from_pretrained(tmp_path / "saved")
    assert backbones.FALLBACK_LANGUAGE not in str(error.value)
