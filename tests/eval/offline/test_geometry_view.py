"""``python -m eval.geometry_view`` on tiny checkpoints and a tiny dataset: what it writes, says and refuses."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from matplotlib import image as png
from matplotlib.figure import Figure

from eval.common.errors import EvalError
from eval.offline import geometry_view
from eval.offline.geometry_view import GeometryViewConfig, load_policy, main, show_frames
from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.inspection.attention import AttentionRecorder
from lerobot_atlasvla.inspection.depth import GeometryReader
from lerobot_atlasvla.inspection.landmark_views import LandmarkRecorder, cell_places
from lerobot_atlasvla.libero.demonstrations.schema import FPS, ROBOT_TYPE, libero_features
from tests.conftest import IMAGE, STATE, TASK, WRIST, dataset_stats
from tests.helpers import released
from tests.helpers.landmark_policies import save_checkpoint

PIXELS = 48
EPISODES, LENGTH = 2, 3
HEADS = {"depth_layers": (0, 1, 2, 3), "depth_features": 8, "depth_channels": (8, 16, 32, 32)}


def colors(frame: int) -> tuple[int, int]:
    """Gray of the scene and of the wrist view in a frame."""
    return 20 + 10 * frame, 120 + 10 * frame


def gray_views(frame: int) -> dict[str, torch.Tensor]:
    """The two views as a policy gets them."""
    scene, wrist = (torch.full((1, 3, PIXELS, PIXELS), gray / 255) for gray in colors(frame))
    return {IMAGE: scene, WRIST: wrist}


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory):
    """Views of one gray each, by which a picture shows what it was made of."""
    root = tmp_path_factory.mktemp("data") / "dataset"
    dataset = LeRobotDataset.create(
        "local/test", fps=FPS, features=libero_features(PIXELS), root=root, robot_type=ROBOT_TYPE, use_videos=False
    )
    for frame in range(EPISODES * LENGTH):
        views = [np.full((PIXELS, PIXELS, 3), gray, np.uint8) for gray in colors(frame)]
        numbers = {STATE: np.zeros(8, np.float32), "action": np.zeros(7, np.float32)}
        dataset.add_frame(dict(zip((IMAGE, WRIST), views, strict=True)) | numbers | {"task": TASK})
        if (frame + 1) % LENGTH == 0:
            dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(scope="module")
def with_depth(tmp_path_factory):
    """A checkpoint whose eyes come from a released-style VGGT with its heads."""
    root = released.write_with_heads(tmp_path_factory.mktemp("released"))
    policy = released.released_policy(root, vggt_depth=4, vggt_output_layers=(1, 3))
    return released.save(policy, root / "checkpoint")


@pytest.fixture
def drawn(monkeypatch):
    """What each picture is drawn from; it is drawn all the same."""
    seen = []
    draw = geometry_view.draw

    def spy(images, attention, depths, title, path, landmarks):
        seen.append((images, attention, depths, title, landmarks))
        draw(images, attention, depths, title, path, landmarks)

    monkeypatch.setattr(geometry_view, "draw", spy)
    return seen


def refused(cfg: GeometryViewConfig) -> str:
    with pytest.raises(EvalError) as stopped:
        show_frames(cfg)
    assert not cfg.output_dir.is_dir()
    return str(stopped.value)


def test_frames_are_shown_as_the_policy_sees_them(checkpoint, dataset_root, drawn, tmp_path, monkeypatch, capsys):
    flags = [f"--checkpoint={checkpoint}", f"--dataset_root={dataset_root}", f"--output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["geometry_view", *flags, "--frames=[0, 4]"])
    main()
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["frame_000000.png", "frame_000004.png"]
    out = capsys.readouterr().out
    (reason,) = [line for line in out.splitlines() if "no depth row" in line]
    assert "vggt_init=random" in reason
    for frame, (images, _, depths, title, _) in zip((0, 4), drawn, strict=True):
        assert [(image.shape, image.min(), image.max()) for image in images] == [
            ((PIXELS, PIXELS, 3), gray, gray) for gray in colors(frame)
        ]
        assert depths is None
        assert title == f"frame {frame}, episode {frame // LENGTH}: {TASK}"

    policy = AtlasVLAPolicy.from_pretrained(checkpoint)
    preprocess, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    with AttentionRecorder(policy) as recorder:
        policy.predict_action_chunk(preprocess(gray_views(4) | {STATE: torch.zeros(1, 8), "task": [TASK]}))
    np.testing.assert_allclose(drawn[1][1].attention_VHW, recorder.chunks[0].attention_VHW, atol=1e-5)


def test_the_picture_has_both_views_and_a_third_row_for_depth(with_depth, dataset_root, drawn, tmp_path, monkeypatch):
    cfg = GeometryViewConfig(with_depth, dataset_root, tmp_path / "without", [2])
    (without,) = show_frames(cfg)
    monkeypatch.setattr("lerobot_atlasvla.inspection.depth.GeometryReader", partial(GeometryReader, **HEADS))
    cfg.output_dir = tmp_path / "with"
    (file,) = show_frames(cfg)
    picture, smaller = png.imread(file)[..., :3], png.imread(without)[..., :3]
    assert picture.shape[0] > 1.3 * smaller.shape[0]
    # The plain views, left and right, in the upper third.
    upper = picture[: len(picture) // 3]
    middle = upper.shape[1] * 45 // 100
    for half, gray in zip((upper[:, :middle], upper[:, middle:]), colors(2), strict=True):
        assert (np.abs(half - gray / 255).max(axis=2) < 0.01).sum() > 10_000

    depths = drawn[1][2]
    policy = AtlasVLAPolicy.from_pretrained(with_depth)
    expected = GeometryReader(policy, **HEADS)(gray_views(2)).depth_BVHW[0]
    np.testing.assert_allclose(np.stack(depths), expected.numpy(), rtol=1e-4)
    assert drawn[0][2] is None


def test_a_source_without_these_heads_is_explained_in_one_line(with_depth, dataset_root, tmp_path, capsys):
    """The tiny VGGT is shallower than the depth head of VGGT-1B needs."""
    show_frames(GeometryViewConfig(with_depth, dataset_root, tmp_path))
    lines = [line for line in capsys.readouterr().out.splitlines() if "no depth row" in line]
    assert lines == ["geometry view: no depth row: The depth head reads layers (4, 11, 17, 23), but vggt_depth is 4."]


@pytest.mark.parametrize("frames", [[6], [0, -1, 9], []])
def test_frames_that_are_not_there(checkpoint, dataset_root, tmp_path, frames):
    message = refused(GeometryViewConfig(checkpoint, dataset_root, tmp_path / "out", frames))
    assert f"--frames={frames}" in message
    assert "0 .. 5" in message
    outside = [frame for frame in frames if frame]
    assert not frames or f"{outside} are not" in message


def test_the_folder_above_will_do(checkpoint, tmp_path):
    above = tmp_path / "last"
    shutil.copytree(checkpoint, above / "pretrained_model")
    policy, _ = load_policy(above)
    assert policy.config.type == "atlasvla"


def test_other_policies_and_folders(checkpoint, dataset_root, tmp_path):
    other = tmp_path / "act"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"type": "act"}))
    out = tmp_path / "out"
    assert f"--checkpoint={other} is a policy of type act" in refused(GeometryViewConfig(other, dataset_root, out))
    message = refused(GeometryViewConfig(tmp_path, dataset_root, out))
    assert f"--checkpoint={tmp_path} is not a LeRobot checkpoint" in message
    assert "pretrained_model" in message
    (other / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert "model.safetensors does not exist" in refused(GeometryViewConfig(other, dataset_root, out))
    message = refused(GeometryViewConfig(checkpoint, tmp_path, out))
    assert f"--dataset_root={tmp_path} is no LeRobot dataset" in message


def test_a_dataset_with_other_cameras(dataset_root, tmp_path):
    third = "observation.images.third"
    features = {**released.released_config(tmp_path).input_features}
    features[third] = features[WRIST]
    checkpoint = released.save_checkpoint(tmp_path / "checkpoint", input_features=features)
    message = refused(GeometryViewConfig(checkpoint, dataset_root, tmp_path / "out"))
    assert f"frame 0 of --dataset_root={dataset_root} does not fit the policy" in message
    assert f"'{third}' is missing" in message


def test_a_picture_that_cannot_be_written_leaves_the_old_one(checkpoint, dataset_root, tmp_path, monkeypatch):
    cfg = GeometryViewConfig(checkpoint, dataset_root, tmp_path)
    (file,) = show_frames(cfg)
    before = file.read_bytes()

    def full(figure, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(EvalError, match=r"--output_dir=.* can't be written to: .*No space left"):
        show_frames(cfg)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_an_output_folder_that_is_a_file(checkpoint, dataset_root, tmp_path):
    taken = tmp_path / "out"
    taken.write_text("mine")
    assert f"--output_dir={taken} can't be written to" in refused(GeometryViewConfig(checkpoint, dataset_root, taken))
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("conditioning", ["landmarks", "only_landmarks"])
def test_landmarks_are_shown_where_they_look(dataset_root, drawn, tmp_path, conditioning):
    folder = save_checkpoint(tmp_path / "saved", query_conditioning=conditioning)
    policy = AtlasVLAPolicy.from_pretrained(folder)
    preprocess, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
    batch = preprocess(gray_views(4) | {STATE: torch.zeros(1, 8), "task": [TASK]})
    plain = policy.predict_action_chunk(batch)
    policy.reset()
    with LandmarkRecorder(policy) as recorder:
        assert torch.equal(policy.predict_action_chunk(batch), plain)
    assert "match" not in vars(policy.model.landmarks)
    (seen,) = recorder.chunks
    assert seen.views == (WRIST, IMAGE)

    (file,) = show_frames(GeometryViewConfig(folder, dataset_root, tmp_path / "out", [4]))
    (images, attention, _, _, landmarks) = drawn[0]
    assert (attention is None) == (conditioning == "only_landmarks")
    np.testing.assert_allclose(landmarks.places_VK2, seen.places_VK2, atol=1e-5)
    np.testing.assert_allclose(landmarks.visibility_VK, seen.visibility_VK, atol=1e-5)
    # The wrist view first, as the policy has them.
    assert [image.max() for image in images] == list(reversed(colors(4)))
    height = png.imread(file).shape[0]
    assert height == pytest.approx(110 * (3.4 * (2 if attention is None else 3) + 0.6), abs=2)


def test_a_mark_is_where_its_cell_is_and_numbered_if_it_is_seen():
    axes = Figure().subplots()
    geometry_view.draw_landmarks(axes, (40, 80), np.array([[0.25, 0.5], [0.75, 0.125]]), np.array([0.9, 0.1]))
    (marks,) = axes.collections
    np.testing.assert_allclose(marks.get_offsets(), [[19.5, 19.5], [59.5, 4.5]])
    assert marks.get_array().tolist() == [0.9, 0.1]
    assert [text.get_text() for text in axes.texts] == ["0"]
    assert axes.get_title() == "1 of 2 landmarks seen"


def test_cells_are_counted_row_by_row():
    places = cell_places((2, 3), 24)
    assert places.shape == (24, 2)
    np.testing.assert_allclose(
        places[[0, 1, 6, 23]], [[1 / 12, 1 / 8], [3 / 12, 1 / 8], [1 / 12, 3 / 8], [11 / 12, 7 / 8]]
    )


def test_a_policy_without_landmarks_has_none_to_record(checkpoint):
    with pytest.raises(ValueError, match="query_conditioning=landmarks"):
        LandmarkRecorder(AtlasVLAPolicy.from_pretrained(checkpoint))
