"""Copies of one demonstration are no new ones: whoever splits a dataset keeps them together, or says it does not."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lerobot_atlasvla.training.held_out import copies_of, demonstrations, leak_of, note_on_copies, split_episodes

COPIES = 3


def write(root, motions, *, key="action", rows_at_once=4, state=None):
    """Episodes of two frames with these numbers, as LeRobot lays them out, cut anywhere into row groups."""
    frames = [(episode, number + step / 2) for episode, number in enumerate(motions) for step in range(2)]
    columns = {
        "episode_index": pa.array([episode for episode, _ in frames]),
        key: pa.array([[number, -number] for _, number in frames], type=pa.list_(pa.float32())),
    }
    if state is not None:
        columns["observation.state"] = pa.array([[float(state[episode])] for episode, _ in frames])
    file = root / "data/chunk-000/file-000.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(pa.table(columns), file, row_group_size=rows_at_once)
    return root


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_copies_are_told_by_their_motion_wherever_they_are(tmp_path, rows_at_once):
    root = write(tmp_path, [5, 5, 7, 5, 8, 7], rows_at_once=rows_at_once)
    assert demonstrations(root) == {0: 0, 1: 0, 2: 2, 3: 0, 4: 4, 5: 2}


def test_other_states_are_another_demonstration(tmp_path):
    assert demonstrations(write(tmp_path, [5, 5, 5], state=[1, 2, 1])) == {0: 0, 1: 1, 2: 0}


def test_data_without_actions_or_files_tell_nothing(tmp_path):
    assert demonstrations(write(tmp_path / "geometry", [5, 5], key="observation.state")) == {}
    assert demonstrations(tmp_path / "streamed") == {}
    assert note_on_copies(SimpleNamespace(root=tmp_path / "geometry", repo_id="local/x")) == ""
    assert note_on_copies(SimpleNamespace()) == ""


def test_actions_in_rows_and_columns_are_read_to_the_last_number(tmp_path):
    file = tmp_path / "data/chunk-000/file-000.parquet"
    file.parent.mkdir(parents=True)
    values = np.zeros((3, 2, 2))
    values[2, 1, 1] = 1
    parquet.write_table(pa.table({"episode_index": [0, 1, 2], "action": values.tolist()}), file)
    assert demonstrations(tmp_path) == {0: 0, 1: 0, 2: 2}


def copied(demonstrations_per_task, copies=COPIES):
    """Tasks, and which demonstration each episode is, of data as ``atlasvla-collect --random_cameras`` writes them."""
    tasks = [[f"task {task}"] for task, count in enumerate(demonstrations_per_task) for _ in range(count * copies)]
    return tasks, {episode: episode - episode % copies for episode in range(len(tasks))}


@pytest.mark.parametrize("counts", [[10], [10, 10], [10, 4], [7, 3]])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 1 / 3, 0.5])
def test_a_leak_is_found_and_the_share_that_is_named_has_none(counts, share):
    tasks, shows = copied(counts)
    split = split_episodes({"eval_split": share}, tasks)
    leaked = copies_of(split.held_out, split.training, shows)
    # The boundary in each task is the only place.
    cut = [episode for episode in split.held_out if shows[episode] in {shows[other] for other in split.training}]
    assert leaked == cut
    said = leak_of({"eval_split": share}, tasks, shows)
    assert bool(said) == bool(cut)
    if said:
        assert f"--dataset.eval_split={share:g} holds out {len(split.held_out)} episodes" in said
        assert f"copies of {len(leaked)} of them" in said
        named = float(said.split("--dataset.eval_split=")[2].split()[0])
        whole = split_episodes({"eval_split": named}, tasks)
        assert whole.held_out
        assert not copies_of(whole.held_out, whole.training, shows)


def test_no_share_helps_one_demonstration_with_copies():
    tasks, shows = copied([1])
    assert "no share keeps them together" in leak_of({"eval_split": 0.5}, tasks, shows)
    assert leak_of({"eval_split": 0.5, "episodes": [0, 1, 2]}, tasks, {}) == ""


def test_who_trains_on_copies_is_told(tmp_path):
    note = note_on_copies(SimpleNamespace(root=write(tmp_path, [5, 5, 5, 6]), repo_id="local/cameras"))
    assert "The 4 episodes of local/cameras show 2 demonstrations" in note
    assert "--dataset.eval_split" in note
