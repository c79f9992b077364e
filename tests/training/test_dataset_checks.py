"""One number that is not finite in a dataset is found before the first training step, whatever the normalization."""

import logging
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
from lerobot.policies.factory import make_policy

from lerobot_atlasvla.policy.checks.types import ConfigError
from lerobot_atlasvla.training.dataset_checks import check_numbers, prepare_metadata
from tests.conftest import STATE, tiny_config
from tests.helpers.random_dataset import REPO_ID, write_dataset


def changed(root, key, dimension, value, row=16):
    """The dataset with another number in one row, as if it had been recorded so."""
    (file,) = (root / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    values = np.stack(table[key].to_numpy()).astype(np.float64)
    values[row, dimension] = value
    column = pa.array(values.tolist(), type=pa.list_(pa.float64()))
    parquet.write_table(table.set_column(table.schema.get_field_index(key), key, column), file)
    return LeRobotDatasetMetadata(REPO_ID, root=root)


@pytest.fixture
def root(dataset_root, tmp_path):
    return shutil.copytree(dataset_root, tmp_path / "data")


@pytest.mark.parametrize("mode", list(NormalizationMode))
@pytest.mark.parametrize(("key", "value"), [("action", math.nan), (STATE, math.inf), ("action", -1e300)])
def test_the_frame_is_named_in_every_mode(root, mode, key, value):
    meta = changed(root, key, 2, value)
    modes = {"VISUAL": NormalizationMode.IDENTITY, "STATE": mode, "ACTION": mode}
    config = tiny_config(input_features={}, output_features={}, normalization_mapping=modes)
    with pytest.raises(
        ValueError, match=r"not finite: .* in dimension 2 of frame 16 \(frame 4 of episode 1\)"
    ) as error:
        make_policy(config, ds_meta=meta)
    assert str(error.value).startswith(f"{key} of {REPO_ID}")
    assert "--operation.episode_indices='[1]'" in str(error.value)


def test_the_parts_of_a_state_are_read_too(root):
    (file,) = (root / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    parts = [f"{STATE}.arm", f"{STATE}.gripper"]
    names = [parts[0] if name == STATE else name for name in table.schema.names]
    gripper = pa.array([math.nan if row == 5 else 0.0 for row in range(len(table))], type=pa.float32())
    parquet.write_table(table.rename_columns(names).append_column(parts[1], gripper), file)
    features = {key: PolicyFeature(FeatureType.STATE, (size,)) for key, size in zip(parts, (8, 1), strict=True)}
    with pytest.raises(ValueError, match=r"observation.state.gripper of .* nan in dimension 0 of frame 5"):
        check_numbers(tiny_config(input_features=features), LeRobotDatasetMetadata(REPO_ID, root=root))


def test_a_row_without_numbers_is_named(root):
    (file,) = (root / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    rows = table["action"].to_pylist()
    rows[3] = None
    column = pa.array(rows, type=pa.list_(pa.float32()))
    parquet.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)
    with pytest.raises(ValueError, match=r"action of .* None in dimension 0 of frame 3"):
        check_numbers(tiny_config(), LeRobotDatasetMetadata(REPO_ID, root=root))


def test_one_number_a_row_and_whole_numbers(root):
    """A state of length 1 is a column of numbers, not of lists; integers can't be anything but finite."""
    (file,) = (root / "data").glob("*/*.parquet")
    table = parquet.read_table(file)
    place = table.schema.get_field_index(STATE)
    meta = SimpleNamespace(root=root, repo_id=REPO_ID)
    parquet.write_table(table.set_column(place, STATE, pa.array(range(len(table)))), file)
    check_numbers(tiny_config(), meta)
    numbers = np.arange(len(table), dtype=np.float32)
    numbers[7] = math.nan
    parquet.write_table(table.set_column(place, STATE, pa.array(numbers)), file)
    with pytest.raises(ValueError, match=r"observation\.state .* dimension 0 of frame 7 "):
        check_numbers(tiny_config(), meta)


def test_a_state_that_is_not_read_may_be_anything(root):
    check_numbers(tiny_config(use_state=False), changed(root, STATE, 0, math.nan))


def test_finite_data_and_data_elsewhere_pass(root, tmp_path):
    check_numbers(tiny_config(), LeRobotDatasetMetadata(REPO_ID, root=root))
    check_numbers(tiny_config(), SimpleNamespace(root=tmp_path / "streamed", repo_id=REPO_ID))


@pytest.mark.parametrize("stats", [None, {}])
def test_data_without_statistics_are_not_trained_on_as_they_are(stats):
    """LeRobot would pass states and actions through without normalization, and say nothing."""
    meta = SimpleNamespace(root=None, repo_id=REPO_ID, stats=stats, total_frames=3)
    with pytest.raises(
        ConfigError, match=r"observation\.state lack mean, std, .*; they have nothing\. .*recompute_stats"
    ):
        prepare_metadata(tiny_config(), meta)
    identity = dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    prepare_metadata(tiny_config(normalization_mapping=identity), meta)
    meta.total_frames = 0  # to record into
    prepare_metadata(tiny_config(), meta)


@pytest.mark.parametrize("copies", [1, 2])
def test_whoever_trains_on_copies_of_demonstrations_is_told(tmp_path, caplog, copies):
    root = write_dataset(tmp_path / "data", episodes=2, frames=2, copies=copies)
    with caplog.at_level(logging.INFO):
        make_policy(
            tiny_config(input_features={}, output_features={}), ds_meta=LeRobotDatasetMetadata(REPO_ID, root=root)
        )
    told = [record.getMessage() for record in caplog.records if "show 2 demonstrations" in record.getMessage()]
    assert len(told) == copies - 1
