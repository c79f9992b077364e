"""``atlasvla-collect-geometry``: what is written, resumed and refused, with a simulator that costs nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from lerobot_atlasvla.libero.cameras.views import View
from lerobot_atlasvla.libero.dataset_settings import CollectionError
from lerobot_atlasvla.libero.demonstrations import collector as collector_module
from lerobot_atlasvla.libero.demonstrations.episode import Attempt
from lerobot_atlasvla.libero.geometry_data import collect as collect_module
from lerobot_atlasvla.libero.geometry_data.collect import RECORD_NAME, collect_geometry, main
from lerobot_atlasvla.libero.geometry_data.schema import GeometryEpisode
from lerobot_atlasvla.libero.geometry_data.settings import GeometryConfig, GeometryJob
from lerobot_atlasvla.libero.tasks import SPATIAL
from tests.libero.demonstrations.fake_simulator import REPO_ID, SOURCE, FakePool

FRAMES_OF_REFERENCE = {"base_to_world": np.eye(4).tolist()}


def fake_episode(job: GeometryJob) -> Attempt:
    """Random views that depend on the job alone; an episode has two or three states."""
    config = job.config
    rng = np.random.default_rng([job.task_id, job.attempt])
    states, size = 2 + job.attempt % 2, config.image_size
    cells = size // config.depth_cell_px

    def view() -> View:
        return View(
            rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
            rng.random((cells, cells), dtype=np.float32),
            rng.random((3, 3), dtype=np.float32),
            rng.random((4, 4), dtype=np.float32),
            rng.random((cells, cells, 4), dtype=np.float32),
        )

    views = {name: [view() for _ in range(states)] for name in config.views}
    arm = rng.random((states, 3)), np.tile([1.0, 0.0, 0.0, 0.0], (states, 1)), rng.random((states, 2))
    episode = GeometryEpisode(views, *arm)
    return Attempt("name", f"instruction {job.task_id}", episode, frames_of_reference=FRAMES_OF_REFERENCE)


@pytest.fixture(autouse=True)
def _fake_simulator(monkeypatch):
    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(collector_module, "describe_source", lambda: SOURCE)
    monkeypatch.setattr(collect_module, "run_job", fake_episode)


def config(root: Path, **overrides) -> GeometryConfig:
    values = {"repo_id": REPO_ID, "task_ids": [1, 3], "episodes_per_task": 3, "image_size": 8, "save_every": 2}
    return GeometryConfig(root, **(values | overrides))


def rows(root: Path) -> list[dict]:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(REPO_ID, root=root)
    return [
        {key: value if isinstance(value, str) else value.numpy() for key, value in dataset[index].items()}
        for index in range(len(dataset))
    ]


def test_every_view_is_stored_exactly(tmp_path):
    settings = config(tmp_path / "ds")
    assert collect_geometry(settings).new_frames == 14
    stored = rows(tmp_path / "ds")
    episodes = [fake_episode(settings.job((SPATIAL, task), attempt)) for task in (1, 3) for attempt in range(3)]
    frames = [frame for episode in episodes for frame in episode.episodes[0].frames(episode.instruction)]
    assert len(stored) == len(frames)
    assert {key.split(".")[-1] for key in frames[0] if ".images." in key} == {"wrist", "scene_0", "scene_1"}
    for row, frame in zip(stored, frames, strict=True):
        for key, value in frame.items():
            if ".images." in key:
                np.testing.assert_array_equal((255 * row[key]).round().astype(np.uint8), value.transpose(2, 0, 1))
            else:
                np.testing.assert_array_equal(row[key], value)
    assert stored[0]["observation.depth.scene_1"].shape == (2, 2)
    assert stored[0]["observation.object_coordinates.scene_1"].shape == (2, 2, 4)
    record = json.loads((tmp_path / "ds" / "meta" / RECORD_NAME).read_text())
    assert record["settings"]["azimuth"] == [-75, 75]
    assert record["settings"]["sources"] == ["expert", "random"]
    assert "focal length along x is negative" in record["convention"]["intrinsics"]
    assert record["tasks"]["3"]["frames_of_reference"] == FRAMES_OF_REFERENCE


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    def interrupted(job: GeometryJob) -> Attempt:
        if (job.task_id, job.attempt) == (3, 1):
            raise RuntimeError("the simulator broke")
        return fake_episode(job)

    collect_geometry(config(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(collect_module, "run_job", interrupted)
        with pytest.raises(RuntimeError, match="the simulator broke"):
            collect_geometry(config(tmp_path / "cut"))
    assert collect_geometry(config(tmp_path / "cut", workers=1)).new_episodes == 2
    whole, cut = rows(tmp_path / "whole"), rows(tmp_path / "cut")
    assert len(whole) == len(cut)
    for one, other in zip(whole, cut, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_several_suites_fill_one_dataset(tmp_path):
    root = tmp_path / "ds"
    collect_geometry(config(root, task_ids=[1], episodes_per_task=2))
    both = config(root, suite="libero_spatial,libero_90", task_ids=[1], episodes_per_task=2)
    assert collect_geometry(both).new_episodes == 2
    assert len(rows(root)) == 10
    record = json.loads((root / "meta" / RECORD_NAME).read_text())
    assert list(record["tasks"]) == ["libero_spatial/1", "libero_90/1"]
    assert record["settings"]["suite"] == "libero_spatial,libero_90"
    assert record["settings"]["sources"] is None, "each suite its own"
    assert collect_geometry(both).new_episodes == 0


def test_other_ranges_are_another_dataset(tmp_path):
    collect_geometry(config(tmp_path / "ds", task_ids=[1], episodes_per_task=1))
    with pytest.raises(CollectionError, match=r"--hold_out_azimuth=\[30.0, 45.0\] differs from None"):
        collect_geometry(config(tmp_path / "ds", hold_out_azimuth=[30.0, 45.0]))


def test_the_states_per_second_are_told(tmp_path, capsys):
    flags = [f"--root={tmp_path / 'ds'}", f"--repo_id={REPO_ID}", "--suite=libero_goal", "--task_ids=[0]"]
    flags += ["--episodes_per_task=2", "--image_size=8", "--random_cameras=1", "--azimuth=[-30, 30]"]
    assert main([*flags, "--hold_out_azimuth=[10, 20]", "--sources=[fixed, random]"]) == 0
    out = capsys.readouterr().out
    assert "5 states, 10 views" in out
    assert " states a second" in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"suite": "libero"}, r"--suite=libero must name suites of LIBERO, .* allowed: libero_spatial, "),
        ({"image_size": 10**5}, "--image_size=100000 must be at most 2048"),
        ({"workers": 10**6}, "--workers=1000000 must be at most 512"),
        ({"random_cameras": 0}, "--random_cameras=0 must be at least 1"),
        ({"random_cameras": None}, "--random_cameras=None must be at least 1"),
        ({"pan": [5.0, -5.0]}, "--pan=.* is reversed"),
        ({"depth_cell_px": 3}, "--depth_cell_px=3 must be at least 1 and divide --image_size=8"),
        ({"depth_cell_px": 0}, "--depth_cell_px=0 must be at least 1"),
        ({"depth_cell_px": 16}, "--depth_cell_px=16 must be at least 1 and divide --image_size=8"),
        ({"sources": []}, r"--sources=\[\] must name some of expert, fixed, random\."),
        ({"sources": ["demos"]}, r"--sources=\['demos'\] must name some of"),
        (
            {"suite": "libero_90", "sources": ["expert"]},
            r"every task of --suite=libero_90 .* libero_10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\. ",
        ),
        ({"states_per_episode": 1}, "--states_per_episode=1 must be at least 2"),
        ({"every_steps": 0}, "--every_steps=0 must be at least 1"),
        ({"max_steps": 991}, "--max_steps=991 must be at most 990: LIBERO ends an episode after 1000 steps"),
        ({"posture_share": 2.0}, "--posture_share=2.0 must lie in 0 .. 1"),
        ({"reach_share": float("nan")}, "--reach_share=nan must lie in 0 .. 1"),
        ({"posture_noise": []}, r"--posture_noise=\[\] must be"),
        ({"posture_noise": [0.1, -0.1]}, r"--posture_noise=.* must be numbers of at least 0"),
        ({"object_offset_cm": -1.0}, "--object_offset_cm=-1.0 must be at least 0"),
        ({"object_offset_cm": float("inf")}, "--object_offset_cm=inf must be a finite number"),
        ({"layout_offset_cm": -1.0}, "--layout_offset_cm=-1.0 must be at least 0"),
        ({"noise": float("nan")}, "--noise=nan must be at least 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, override, message):
    with pytest.raises(CollectionError, match=message):
        collect_geometry(config(tmp_path / "ds", **override))
    assert not (tmp_path / "ds").exists()
