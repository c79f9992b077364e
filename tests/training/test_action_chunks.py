"""Actions in memory: the very chunks that LeRobot's reader gives, and no others."""

import copy
from types import SimpleNamespace

import pyarrow.parquet as parquet
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.libero.demonstrations.schema import FPS, libero_features
from lerobot_atlasvla.training.action_chunks import ActionChunks, InMemoryActions
from tests.conftest import CHUNK, tiny_config
from tests.helpers.random_dataset import REPO_ID, write_dataset

EPISODES, FRAMES = 3, 12
MODES = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("actions") / "data", episodes=EPISODES, frames=FRAMES)


def batches(data, meta, frames, *, episodes=None, **overrides):
    """The same frames as LeRobot's reader gives chunks of them, and as it gives single actions, both preprocessed."""
    found = []
    for in_memory in (False, True):
        config = tiny_config(actions_in_memory=in_memory, **overrides)
        delta = config.action_delta_indices
        seconds = None if delta is None else {"action": [step / meta.fps for step in delta]}
        dataset = LeRobotDataset(REPO_ID, root=data, episodes=episodes, delta_timestamps=seconds)
        preprocessor, _ = make_atlasvla_pre_post_processors(config, meta.stats)
        found.append(preprocessor(torch.utils.data.default_collate([dataset[frame] for frame in frames])))
    return found


@pytest.fixture(scope="module")
def meta(data):
    return LeRobotDatasetMetadata(REPO_ID, root=data)


@pytest.mark.parametrize("mode", ["IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES"])
def test_the_chunks_are_those_of_lerobots_reader_bit_by_bit(data, meta, mode):
    overrides = {"normalization_mapping": MODES | {"ACTION": mode}}
    read, single = batches(data, meta, range(EPISODES * FRAMES), **overrides)
    assert read["action"].shape == (EPISODES * FRAMES, CHUNK, 7)
    assert single["action"].shape == (EPISODES * FRAMES, 7)
    assert "action_is_pad" not in single
    chunks, valid = InMemoryActions.read(tiny_config(**overrides), meta).chunks(single)
    assert torch.equal(chunks, read["action"])
    assert torch.equal(valid, ~read["action_is_pad"])
    # Every episode but its first three frames reaches past its end.
    assert (~valid).any(dim=1).sum() == EPISODES * (CHUNK - 1)


@pytest.mark.parametrize(
    ("in_memory", "stored_as", "told"), [(False, "image", 1), (False, "video", 0), (True, "image", 0)]
)
def test_who_decodes_a_whole_chunk_of_images_is_told_once(data, meta, caplog, in_memory, stored_as, told):
    read, _ = batches(data, meta, range(2))
    features = {name: {"dtype": stored_as} if "images" in name else feature for name, feature in meta.features.items()}
    chunks = ActionChunks(tiny_config(actions_in_memory=in_memory), SimpleNamespace(features=features))
    for _ in range(2):
        chunks.of(read)
    advice = [record.message for record in caplog.records if "actions_in_memory=true" in record.message]
    assert len(advice) == told
    assert all(f"decodes {2 * (CHUNK + 1)} images" in text for text in advice)


def test_some_of_the_episodes_are_enough(data, meta):
    read, single = batches(data, meta, range(FRAMES), episodes=[1])
    assert single["index"].tolist() == list(range(FRAMES, 2 * FRAMES))
    chunks, valid = InMemoryActions.read(tiny_config(), meta).chunks(single)
    assert torch.equal(chunks, read["action"])
    assert torch.equal(valid, ~read["action_is_pad"])


def test_actions_that_are_not_the_datasets_are_refused(data, meta):
    _, single = batches(data, meta, [0, 5])
    table = InMemoryActions.read(tiny_config(), meta)
    with pytest.raises(ValueError, match=r"up to 0\.5 apart.*--policy\.actions_in_memory=false"):
        table.chunks(single | {"action": single["action"] + torch.tensor([[0.0], [0.5]])})
    with pytest.raises(ValueError, match="are not those of the dataset's files"):
        table.chunks(single | {"index": single["index"] + 1})


def test_rows_that_are_not_on_disk_are_refused(data, meta, tmp_path):
    _, single = batches(data, meta, [0, 5, FRAMES])
    file = next((data / "data").glob("*/*.parquet"))
    here = tmp_path / "data" / file.parent.name
    here.mkdir(parents=True)
    rows = parquet.read_table(file)
    # The first episode, but for its last step.
    parquet.write_table(rows.slice(0, FRAMES - 1), here / file.name)
    partial = copy.copy(meta)
    partial.root = tmp_path
    table = InMemoryActions.read(tiny_config(), partial)
    first = {key: single[key][:1] for key in ("action", "index")}
    assert torch.isfinite(table.chunks(first)[0]).all()
    for sample in (1, 2):
        part = {key: single[key][sample : sample + 1] for key in ("action", "index")}
        with pytest.raises(ValueError, match=r"not all in the dataset's files.*--dataset\.streaming"):
            table.chunks(part)


def test_data_that_are_not_on_disk_are_explained(tmp_path):
    streamed = SimpleNamespace(root=tmp_path, repo_id="user/streamed")
    with pytest.raises(ValueError, match=r"user/streamed.*--dataset\.streaming.*--policy\.actions_in_memory=false"):
        InMemoryActions.read(tiny_config(), streamed)


@pytest.mark.parametrize("head", ["l1", "flow"])
def test_a_policy_learns_the_same_from_both(data, meta, head):
    losses = []
    for batch, in_memory in zip(batches(data, meta, [0, 9, 35], head=head), (False, True), strict=True):
        torch.manual_seed(0)
        policy = make_policy(tiny_config(actions_in_memory=in_memory, head=head), ds_meta=meta).train()
        losses.append(policy(batch)[0])
    assert torch.equal(losses[0], losses[1])


def test_single_actions_without_a_dataset_are_explained(data, meta):
    read, single = batches(data, meta, [0, 1])
    policy = AtlasVLAPolicy(tiny_config(actions_in_memory=True)).train()
    with pytest.raises(ValueError, match=r"action must have shape \(B, 10, 7\), got \(2, 7\).*actions_in_memory"):
        policy(single)
    # Whoever brings whole chunks needs no dataset.
    assert policy(read)[0].isfinite()


def test_a_policy_that_records_may_have_an_empty_dataset(tmp_path):
    empty = LeRobotDatasetMetadata.create(
        "local/new", fps=FPS, features=libero_features(32), root=tmp_path / "new", use_videos=False
    )
    policy = make_policy(tiny_config(actions_in_memory=True), ds_meta=empty)
    assert policy.config.action_delta_indices is None


def test_lerobot_is_asked_for_chunks_unless_they_are_in_memory():
    assert tiny_config().action_delta_indices == list(range(CHUNK))
    assert tiny_config(actions_in_memory=True).action_delta_indices is None
