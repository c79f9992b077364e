"""``python -m eval.action_error`` on tiny checkpoints of two types: whether its figures are those of the actions."""

import json

import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from eval.common.statistics import clustered_mean
from eval.offline import action_error
from eval.offline.action_error_page import own_settings
from lerobot_atlasvla import AtlasVLAPolicy
from tests.conftest import IMAGE, STATE, WRIST
from tests.helpers.small_checkpoints import save_act, save_atlasvla

LENGTH, STEPS = 12, 4


@pytest.fixture(scope="module")
def act_checkpoint(tmp_path_factory, dataset_root):
    return save_act(tmp_path_factory.mktemp("act") / "checkpoints/000003/pretrained_model", dataset_root)


@pytest.fixture(scope="module")
def atlasvla_checkpoint(tmp_path_factory):
    """Sees images of the dataset's size."""
    return save_atlasvla(tmp_path_factory.mktemp("atlasvla") / "checkpoints/000007/pretrained_model")


def run(tmp_path, dataset_root, *checkpoints, **settings):
    flags = {"frames": 5, "name": "probe", "reports": tmp_path / "reports"} | settings
    paths = ", ".join(map(str, checkpoints))
    flags = [f"--{name}={value}" for name, value in flags.items()]
    return action_error.main([f"--checkpoints=[{paths}]", f"--dataset_root={dataset_root}", *flags])


def report_of(tmp_path):
    return json.loads((tmp_path / "reports/probe/report.json").read_text())


def demonstrated(dataset_root, frame):
    """What the dataset has from a frame to the end of its episode, at most ``STEPS`` actions."""
    dataset = LeRobotDataset("local/dataset", root=dataset_root)
    end = (frame // LENGTH + 1) * LENGTH
    return torch.stack([dataset[index]["action"] for index in range(frame, min(frame + STEPS, end))])


def expected(dataset_root, checkpoint, frame_shown):
    """The errors by hand, one frame at a time; the images are those of frame ``frame_shown[frame]``."""
    from lerobot.policies.act.modeling_act import ACTPolicy

    policy = ACTPolicy.from_pretrained(checkpoint).eval()
    dataset = LeRobotDataset("local/dataset", root=dataset_root)
    errors = []
    for frame, other in frame_shown.items():
        batch = {key: dataset[other][key][None] for key in (IMAGE, WRIST)} | {STATE: dataset[frame][STATE][None]}
        wanted = demonstrated(dataset_root, frame)
        with torch.inference_mode():
            errors.append((policy.predict_action_chunk(batch)[0, : len(wanted)] - wanted).abs().mean(0))
    each = torch.stack(errors).double()
    return [each[:, 0:3].mean().item(), each[:, 3:6].mean().item(), each[:, 6].mean().item()]


def test_errors_are_those_of_the_executed_actions(tmp_path, dataset_root, act_checkpoint, capsys):
    assert run(tmp_path, dataset_root, act_checkpoint, batch_size=2) == 0
    content = report_of(tmp_path)
    # Of 24 frames the 1st, 5th, 10th, 15th and 20th; the episode of the 10th ends before the chunk.
    chosen = [0, 4, 9, 14, 19]
    assert len(demonstrated(dataset_root, 9)) == 3 < content["steps"] == STEPS
    (always, one) = content["policies"]
    for name, away in {"error": 0, "error_other_pictures": 2}.items():
        images = {frame: chosen[(place + away) % 5] for place, frame in enumerate(chosen)}
        means = [mean for mean, _ in one[name].values()]
        assert means == pytest.approx(expected(dataset_root, act_checkpoint, images), abs=1e-5)
    assert one["error"] != one["error_other_pictures"]
    dataset = LeRobotDataset("local/dataset", root=dataset_root)
    mean = torch.stack([dataset[index]["action"] for index in range(len(dataset))]).mean(0)
    gripper = [(demonstrated(dataset_root, frame) - mean).abs().mean(0)[6].item() for frame in chosen]
    assert always["error"]["gripper"][0] == pytest.approx(sum(gripper) / 5, abs=1e-5)
    _, half = clustered_mean(gripper, [0, 0, 0, 1, 1])  # the second episode starts with the 13th frame
    assert always["error"]["gripper"][1] == pytest.approx(half, rel=1e-3)
    page = (tmp_path / "reports/probe/report.md").read_text()
    mean_half = "{:.3f} ± {:.3f}".format(*one["error"]["gripper"])
    assert mean_half in page
    assert mean_half in capsys.readouterr().out


def test_batches_do_not_matter(tmp_path, dataset_root, act_checkpoint):
    figures = []
    for size in (1, 5):
        assert run(tmp_path, dataset_root, act_checkpoint, batch_size=size) == 0
        figures.append([mean for mean, _ in report_of(tmp_path)["policies"][1]["error"].values()])
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)


def test_several_types_are_compared_over_the_same_steps(tmp_path, dataset_root, act_checkpoint, atlasvla_checkpoint):
    note = tmp_path / "note.md"
    note.write_text("Untrained.")
    labels = "[ours, ACT]"
    assert run(tmp_path, dataset_root, atlasvla_checkpoint, act_checkpoint, labels=labels, note=note, batch_size=3) == 0
    content = report_of(tmp_path)
    steps = AtlasVLAPolicy.from_pretrained(atlasvla_checkpoint).config.n_action_steps
    assert content["steps"] == min(STEPS, steps)
    assert [(one["label"], one.get("type")) for one in content["policies"]] == [
        ("the mean action, always", None),
        ("ours", "atlasvla"),
        ("ACT", "act"),
    ]
    # A second run with other checkpoints keeps the remarks. Without labels, those are the training runs' names.
    assert run(tmp_path, dataset_root, act_checkpoint) == 0
    assert report_of(tmp_path)["policies"][1]["label"] == act_checkpoint.parents[2].name
    same_run_twice = [act_checkpoint, act_checkpoint.parent]
    assert run(tmp_path, dataset_root, *same_run_twice, frames=2) == 0
    assert [one["label"] for one in report_of(tmp_path)["policies"][1:]] == [str(path) for path in same_run_twice]
    assert "Untrained." in (tmp_path / "reports/probe/report.md").read_text()


def test_policies_of_a_type_are_told_apart_by_their_settings():
    def policy(kind, batch_size, **settings):
        return {"type": kind, "settings": {"batch_size": batch_size, "policy": settings}}

    few, many = policy("act", 8, lr=0.1, dropout=0.0), policy("act", 8, lr=0.2, dropout=0.0)
    other = policy("diffusion", 4, lr=0.3)
    policies = [{"label": "always"}, few, many, other]
    assert own_settings(few, policies) == {"policy.lr": "0.1"}
    assert own_settings(many, policies) == {"policy.lr": "0.2"}
    assert own_settings(other, policies) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 1}, "--frames=1 must be at least 2"),
        ({"frames": 25}, "--frames=25 is more than the dataset's 24"),
        ({"steps": 0}, "--steps=0 must be at least 1"),
        ({"steps": 5}, "--steps=5 is more than the 4 actions that"),
        ({"batch_size": 0}, "--batch_size=0"),
        ({"labels": "[a, b]"}, "--labels=['a', 'b'] must be 1, one for each"),
        ({"labels": "['a|b']"}, "--labels=['a|b'] must differ from each other, not be empty, and have no line ends"),
        ({"seed": -1}, "--seed=-1 must be at least 0"),
        ({"device": "banana"}, "--device=banana cannot be used here"),
        ({"name": "a/b"}, "--name='a/b'"),
        ({"note": "/nowhere/note.md"}, "/nowhere/note.md"),
    ],
)
def test_settings_that_can_t_work_are_refused(tmp_path, dataset_root, act_checkpoint, capsys, settings, message):
    assert run(tmp_path, dataset_root, act_checkpoint, **settings) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_what_does_not_fit_is_refused(tmp_path, dataset_root, act_checkpoint, capsys):
    def message(*checkpoints, root=dataset_root):
        assert run(tmp_path, root, *checkpoints) == 1
        assert not (tmp_path / "reports").exists()
        return capsys.readouterr().err

    assert "is no LeRobot dataset" in message(act_checkpoint, root=tmp_path)
    assert "is not a folder" in message(tmp_path / "none")
    assert "must name at least one" in message()
    config = json.loads((act_checkpoint / "config.json").read_text())
    larger = tmp_path / "larger"
    larger.mkdir()
    config["input_features"][WRIST]["shape"] = [3, 64, 64]
    for file in act_checkpoint.iterdir():
        (larger / file.name).write_bytes(file.read_bytes())
    (larger / "config.json").write_text(json.dumps(config))
    assert f"{larger} expects {WRIST} of shape (3, 64, 64); the dataset has (3, 32, 32)." in message(larger)
    (larger / "config.json").write_bytes((act_checkpoint / "config.json").read_bytes())
    (larger / "model.safetensors").write_bytes(b"no weights")
    assert f"{larger} can't be loaded" in message(larger)
    config["input_features"] = {"observation.images.third": {"type": "VISUAL", "shape": [3, 32, 32]}}
    (larger / "config.json").write_text(json.dumps(config))
    assert "observation.images.third of shape (3, 32, 32); the dataset has none" in message(larger)


def test_a_policy_with_a_history_is_refused(tmp_path, dataset_root, act_checkpoint, monkeypatch, capsys):
    # ACT has no history; its checkpoint stands for a policy whose images of earlier steps matter.
    monkeypatch.setattr("eval.rollout.policy.checkpoint._OBSERVES_ONCE_PER_CHUNK", ())
    assert run(tmp_path, dataset_root, act_checkpoint) == 1
    assert "type act with n_obs_steps=1; only policies that act on one observation" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
