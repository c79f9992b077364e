"""``python -m eval.reliance`` on tiny checkpoints: its figures, its files, its place in a report, what it refuses."""

import json
import math
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.datasets.factory import make_train_eval_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig

from eval.common.errors import EvalError
from eval.offline import reliance
from eval.offline.held_out import choose_episodes
from eval.offline.policy_data import action_statistic, load_policy, load_processors, read_dataset, read_metadata
from eval.report import command as report
from eval.report.reliance_results import image_reliance, interval_text, last_line, read_reliance
from eval.rollout.policy.checkpoint import read_checkpoint
from lerobot_atlasvla.commands import rename_columns
from lerobot_atlasvla.inspection.paired_frames import PairedFrames
from lerobot_atlasvla.training.held_out import split_episodes
from tests.conftest import IMAGE, STATE, TASK, WRIST
from tests.eval.run_folders import make_run, rollouts_of
from tests.helpers.random_dataset import write_dataset
from tests.helpers.small_checkpoints import save_act, save_atlasvla

LENGTH, EPISODES = 12, 5
OTHER = "open the drawer"
TASKS = [[TASK], [OTHER], [TASK], [OTHER], [TASK]]


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return write_dataset(folder, episodes=EPISODES, frames=LENGTH, tasks=(TASK, OTHER))


@pytest.fixture(scope="module")
def act_checkpoint(tmp_path_factory, dataset_root):
    return save_act(tmp_path_factory.mktemp("act") / "checkpoints/000003/pretrained_model", dataset_root)


@pytest.fixture(scope="module")
def atlasvla_checkpoint(tmp_path_factory):
    return save_atlasvla(tmp_path_factory.mktemp("atlasvla") / "checkpoints/000007/pretrained_model")


def run(checkpoint, dataset_root, **settings):
    flags = [f"--{name}={value}" for name, value in ({"device": "cpu", "frames_per_episode": 2} | settings).items()]
    return reliance.main([f"--checkpoint={checkpoint}", f"--dataset_root={dataset_root}", *flags])


@pytest.fixture(scope="module")
def output(dataset_root, atlasvla_checkpoint):
    """Lines of the command's output; its files are beside the checkpoint."""
    with redirect_stdout(StringIO()) as stream:
        assert run(atlasvla_checkpoint.parent, dataset_root, frames_per_episode=1) == 0
    return stream.getvalue().splitlines()


def test_atlasvla_from_checkpoint_to_files(tmp_path, dataset_root, atlasvla_checkpoint, output):
    folder = atlasvla_checkpoint.parent / "reliance"
    content = read_reliance(folder)
    *table, where, line = output[-10:]
    names = ["images", IMAGE, WRIST, "state", "instruction", "everything"]
    names += ["geometry blocks as noise", "geometry blocks removed"]
    assert [one["name"] for one in content["parts"]] == names
    assert all(one["reason"] == "" and len(one["loss_rise"]["episodes"]) == EPISODES for one in content["parts"])
    images = image_reliance(content)
    assert images["mean"] == pytest.approx(sum(images["episodes"]) / EPISODES)
    assert images["mean"] > 0
    assert line == last_line(content)
    state, instruction, noise, removed = (
        f"{content['parts'][place]['action_change']['mean']:.3f}" for place in (3, 4, 6, 7)
    )
    assert line == (
        f"reliance: images {interval_text(images)}, state {state}, instruction {instruction}, geometry blocks as noise "
        f"{noise}, removed {removed} (stds of the actions)"
    )
    assert where == f"report: {folder / 'reliance.md'}"
    assert table[0] == f"| images, all | {interval_text(images)} | {interval_text(content['parts'][0]['loss_rise'])} |"
    page = (folder / "reliance.md").read_text()
    assert line in page
    assert table[-1] in page
    assert "whether the policy was trained on them is not known: the checkpoint does not say its data" in page
    assert (folder / "reliance.png").read_bytes().startswith(b"\x89PNG")
    assert content["checkpoint"]["weights_sha256"] in page
    # The same again, elsewhere, to the last bit.
    assert run(atlasvla_checkpoint, dataset_root, output_dir=tmp_path, episodes="[0]", frames_per_episode=1) == 0
    for first, again in zip(content["parts"], read_reliance(tmp_path)["parts"], strict=True):
        for figure in ("action_change", "loss_rise"):
            assert again[figure]["episodes"] == first[figure]["episodes"][:1]


def test_figures_are_those_of_the_paired_frames(tmp_path, dataset_root, act_checkpoint):
    """One episode of ACT by hand, frame by frame."""
    assert run(act_checkpoint, dataset_root, episodes="[3]", output_dir=tmp_path) == 0
    content = read_reliance(tmp_path)
    assert [one["name"] for one in content["parts"]][-1] == "everything"
    checkpoint = read_checkpoint(act_checkpoint, "cpu", None)
    dataset = LeRobotDataset("local/dataset", root=dataset_root)
    policy, (before, _) = load_policy(checkpoint, dataset.meta, {}), load_processors(checkpoint)
    std = torch.as_tensor(dataset.meta.stats["action"]["std"])
    frames = PairedFrames(dataset, [3], 2, seed=1000)
    own, other = frames.own(0), frames.other(0)
    before_change = policy.predict_action_chunk(before(own))[:, :4]
    after_change = policy.predict_action_chunk(before(own | {key: other[key] for key in (IMAGE, WRIST)}))[:, :4]
    expected = ((after_change - before_change).abs() / std).mean().item()
    images = image_reliance(content)
    assert images["mean"] == pytest.approx(expected, rel=1e-4)
    assert (images["low"], images["high"]) == (None, None)
    assert last_line(content).startswith(f"reliance: images {expected:.3f}, state ")
    assert "instruction 0.000 (stds" in last_line(content)


def test_frames_and_their_counterparts(dataset_root):
    dataset = LeRobotDataset("local/dataset", root=dataset_root)
    pairs = PairedFrames(dataset, range(EPISODES), 3, seed=1)
    counterparts = []
    for place in range(EPISODES):
        own, other = pairs.own(place), pairs.other(place)
        # At one, three and five sixths of twelve frames.
        assert own["frame_index"].tolist() == other["frame_index"].tolist() == [2, 6, 10]
        assert own["episode_index"].tolist() == [place] * 3
        (counterpart,) = set(other["episode_index"].tolist())
        assert counterpart != place
        assert pairs.other_instruction(place) == (OTHER if TASKS[place] == [TASK] else TASK)
        counterparts.append(counterpart)
    assert sorted(counterparts) == list(range(EPISODES))
    alone = PairedFrames(dataset, [2], 3, seed=1)
    assert alone.other(0)["episode_index"].tolist() == [counterparts[2]] * 3
    others = {
        tuple(
            PairedFrames(dataset, [place], 1, seed=seed).other(0)["episode_index"].item() for place in range(EPISODES)
        )
        for seed in range(4)
    }
    assert len(others) > 1


def test_a_history_of_observations_is_read(dataset_root):
    meta = read_metadata(dataset_root)
    dataset = read_dataset(meta, dataset_root, {STATE: [-1 / meta.fps, 0.0]})
    own = PairedFrames(dataset, [0], 2, seed=1).own(0)
    assert own[STATE].shape == (2, 2, 8)
    assert own[f"{STATE}_is_pad"].shape == (2, 2)


@pytest.mark.parametrize(("episodes", "split"), [(None, 0.0), (None, 0.3), ([0, 1, 2, 4], 0.5), ([4, 2, 0], 0.1)])
def test_training_episodes_are_lerobots(dataset_root, episodes, split):
    config = DatasetConfig("local/dataset", root=str(dataset_root), episodes=episodes, eval_split=split)
    cfg = SimpleNamespace(dataset=config, trainable_config=ACTConfig(), tolerance_s=1e-4, num_workers=0)
    train, held_out = make_train_eval_datasets(cfg)
    expected = list(range(EPISODES)) if train.episodes is None else train.episodes
    found = split_episodes({"episodes": episodes, "eval_split": split}, TASKS)
    assert sorted(found.training) == sorted(expected)
    assert sorted(found.held_out) == ([] if held_out is None else sorted(held_out.episodes))


def test_which_episodes_are_chosen(tmp_path):
    def choose(asked=None, most=40, data=tmp_path / "data", **config):
        (tmp_path / "train_config.json").write_text(json.dumps({"dataset": {"repo_id": "me/data"} | config}))
        choice = choose_episodes(tmp_path, data, TASKS, asked, most)
        return choice.episodes, choice.held_out, choice.words

    here = {"root": str(tmp_path / "data")}
    assert choose(**here, eval_split=0.3) == ((3, 4), True, "held out from training")
    assert choose(**here, episodes=[0, 3]) == ((1, 2, 4), True, "held out from training")
    assert choose(**here, episodes=[0, 3], most=2)[0] == (1, 2)
    # Episodes of a task that was not trained on are no held-out ones.
    assert choose(**here, episodes=[0, 2])[0] == (4,)
    everything, held_out, words = choose(**here)
    assert (everything, held_out) == ((0, 1, 2, 3, 4), False)
    assert "no episode was held out, so these are training data" in words
    assert choose([4, 1], **here, eval_split=0.3) == ((4, 1), False, "1 of them are training data")
    assert choose([4], **here, eval_split=0.3) == ((4,), True, "held out from training")
    other, held_out, words = choose(data=tmp_path / "other", **here)
    assert (other, held_out) == ((0, 1, 2, 3, 4), None)
    assert "not known: training was on me/data" in words
    # Collected anew, with fewer episodes.
    with pytest.raises(EvalError, match=r"data has 5 episodes, but the checkpoint .* was trained on its episode 7, so"):
        choose(**here, episodes=[3, 7, 9])
    # Without a root it is the folder of that name.
    assert choose(data=tmp_path / "me/data", eval_split=0.3)[1] is True
    assert choose(data=tmp_path / "hub/datasets--me--data/snapshots/1", eval_split=0.3)[1] is True
    assert choose(data=tmp_path / "you/data", eval_split=0.3)[1] is None


@pytest.fixture(scope="module")
def copies_root(tmp_path_factory):
    """Four demonstrations of one task from three cameras each."""
    return write_dataset(tmp_path_factory.mktemp("copies") / "data", episodes=4, frames=2, copies=3)


def test_a_copy_of_training_data_is_not_held_out(tmp_path, copies_root):
    """The split cuts through the third demonstration, episodes 6 to 8."""
    config = {"repo_id": "me/data", "root": str(copies_root), "eval_split": 0.34}
    (tmp_path / "train_config.json").write_text(json.dumps({"dataset": config}))

    def choose(asked=None):
        choice = choose_episodes(tmp_path, copies_root, [[TASK]] * 12, asked, 40)
        return choice.episodes, choice.held_out, choice.words

    assert choose() == ((9, 10, 11), True, "held out from training")
    copied = "1 of them are training data from another camera"
    assert choose([7, 9]) == ((7, 9), False, copied)
    assert choose([0, 7]) == ((0, 7), False, f"1 of them are training data and {copied}")


def test_the_counterpart_is_another_demonstration(tmp_path, copies_root):
    dataset = LeRobotDataset("local/dataset", root=copies_root)
    for seed in range(3):
        pairs = PairedFrames(dataset, range(12), 1, seed=seed)
        for place in range(12):
            assert pairs.other(place)["episode_index"].item() // 3 != place // 3
    one = LeRobotDataset("local/dataset", root=write_dataset(tmp_path / "one", episodes=1, frames=2, copies=2))
    with pytest.raises(ValueError, match="same demonstration"):
        PairedFrames(one, [0], 1, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames_per_episode": 0}, "--frames_per_episode=0 must be at least 1."),
        ({"frames_per_episode": 13}, "--frames_per_episode=13 must lie in 1 .. 12: episode 0 has 12 frames."),
        ({"batch_size": 0}, "--batch_size=0 must be at least 1."),
        ({"n_action_steps": 0}, "--n_action_steps=0 must be at least 1."),
        ({"n_action_steps": 9}, "--n_action_steps=9 must lie in 1 .. 6, the actions of one chunk of this checkpoint."),
        ({"max_episodes": 0}, "--max_episodes=0 must be at least 1."),
        ({"episodes": "[]"}, "--episodes=[] must name at least one episode, and none twice."),
        ({"episodes": "[1, 1]"}, "--episodes=[1, 1] must name at least one episode, and none twice."),
        ({"episodes": "[1, 5]"}, "--episodes=[1, 5] must be one or more of the dataset's 0 .. 4."),
        ({"device": "quantum"}, "--device=quantum"),
    ],
)
def test_settings_that_can_t_work_are_refused(tmp_path, dataset_root, act_checkpoint, capsys, settings, message):
    assert run(act_checkpoint, dataset_root, output_dir=tmp_path / "out", **settings) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused(tmp_path, dataset_root, act_checkpoint, capsys):
    def message(checkpoint, root=dataset_root, **settings):
        assert run(checkpoint, root, **settings) == 1
        return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("eval.reliance: "))

    assert "is no LeRobot dataset: it has no meta/info.json" in message(act_checkpoint, tmp_path)
    assert "is not a folder" in message(tmp_path / "none")
    one = write_dataset(tmp_path / "one", episodes=1, frames=4)
    assert message(act_checkpoint, one) == (
        f"eval.reliance: --dataset_root={one}: reliance swaps frames between episodes; the dataset has 1."
    )
    copy = tmp_path / "mine"
    copy.mkdir()
    for file in act_checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert f"--output_dir is needed: --checkpoint={copy} is not named pretrained_model" in message(copy)
    config = json.loads((copy / "config.json").read_text())
    config["input_features"] = {"observation.images.third": {"type": "VISUAL", "shape": [3, 32, 32]}}
    (copy / "config.json").write_text(json.dumps(config))
    found = message(copy, output_dir=tmp_path / "out")
    assert f"--checkpoint={copy} expects observation.images.third of shape (3, 32, 32); the dataset has none." in found
    (copy / "config.json").write_bytes((act_checkpoint / "config.json").read_bytes())
    (copy / "model.safetensors").write_bytes(b"no weights")
    assert f"--checkpoint={copy}, a policy of type act, can't be loaded" in message(copy, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert reliance.main(["--checkpoint=a", "--dataset_root=b", "--episodes=none"]) == 2
    with pytest.raises(SystemExit):
        reliance.main(["--checkpoint=a", "--dataset_root=b", "--episode=[1]"])


@pytest.mark.usefixtures("output")
def test_a_report_shows_what_was_measured(tmp_path, dataset_root, act_checkpoint, atlasvla_checkpoint, capsys):
    def rolled_out(name, checkpoint, **executed):
        folder = make_run(tmp_path / name, rollouts_of(0, [60, 0]))
        content = json.loads((folder / "run.json").read_text())
        content["policy"] |= {"checkpoint": str(checkpoint)}
        if checkpoint.exists():
            known = read_checkpoint(checkpoint, "cpu", None)
            content["policy"] |= {"weights_sha256": known.weights_sha256}
            content["policy"] |= {"n_action_steps": known.config.n_action_steps} | executed
        (folder / "run.json").write_text(json.dumps(content))
        return folder

    def rows(*flags):
        assert report.main([f"--reports={tmp_path / 'reports'}", "--name=all", *flags]) == 0
        lines = (tmp_path / "reports/all/report.md").read_text().splitlines()
        start = lines.index("## Reliance")
        return [line.split(" | ") for line in lines[start + 2 : lines.index("", start + 2)]]

    ours, act = rolled_out("ours", atlasvla_checkpoint), rolled_out("act", act_checkpoint)
    old = rolled_out("old", tmp_path / "gone")
    runs = f"--run=[{ours}, {act}, {old}]"
    beside = atlasvla_checkpoint.parent / "reliance"
    assert run(act_checkpoint, dataset_root, output_dir=tmp_path / "of_act", episodes="[1, 2]") == 0
    # Ours was measured beside its checkpoint, ACT's is known only if it is given.
    head, _, of_ours, of_act, of_old = rows(runs)
    assert head[1:6] == ["images", "state", "instruction", "blocks as noise", "blocks removed"]
    assert of_ours[1] == interval_text(image_reliance(read_reliance(beside)))
    assert of_act[1:6] == of_old[1:6] == ["not measured"] * 5
    _, _, _, of_act, of_old = rows(runs, f"--reliance={tmp_path / 'of_act'}")
    assert of_act[1] == interval_text(image_reliance(read_reliance(tmp_path / "of_act")))
    assert of_act[4:6] == ["none", "none"]
    assert of_old[1:6] == ["not measured"] * 5
    # The report keeps it, without the values of single episodes, for a report made of it.
    kept = json.loads((tmp_path / "reports/all/report.json").read_text())["runs"][1]["reliance"]
    assert set(kept["parts"][0]["action_change"]) == {"mean", "low", "high"}
    assert rows(f"--run={tmp_path / 'reports/all'}")[3][1] == of_act[1]
    # A run without geometry blocks has no columns for them; its own folder is looked into.
    (act / "reliance.json").write_bytes((tmp_path / "of_act/reliance.json").read_bytes())
    head, _, alone = rows(f"--run={act}")
    assert head[1:4] == ["images", "state", "instruction"]
    assert "blocks" not in " ".join(head)
    assert alone[1] == of_act[1]
    # Measured on another checkpoint: neither shown nor accepted.
    (old / "reliance.json").write_bytes((tmp_path / "of_act/reliance.json").read_bytes())
    assert rows(f"--run={old}")[2][1] == "not measured"
    capsys.readouterr()
    assert report.main([f"--reports={tmp_path}", f"--run={ours}", f"--reliance=[{tmp_path / 'of_act'}]"]) == 1
    assert f"--reliance={tmp_path / 'of_act'} is of a checkpoint with weights_sha256" in capsys.readouterr().err
    # Of the same weights, but of another number of executed actions: the same.
    sooner = rolled_out("sooner", act_checkpoint, n_action_steps=1)
    assert [row[1] for row in rows(f"--run=[{act}, {sooner}]")[2:]] == [of_act[1], "not measured"]
    assert report.main([f"--reports={tmp_path}", f"--run={sooner}", f"--reliance=[{tmp_path / 'of_act'}]"]) == 1
    assert f"--reliance={tmp_path / 'of_act'} is of 4 executed actions of a chunk, and no" in capsys.readouterr().err
    # As the message says.
    again = tmp_path / "of_one"
    assert run(act_checkpoint, dataset_root, output_dir=again, episodes="[1, 2]", n_action_steps=1) == 0
    row = rows(f"--run={sooner}", f"--reliance={again}")[2]
    assert row[1] == interval_text(image_reliance(read_reliance(again))) != of_act[1]


@pytest.mark.parametrize(
    "stats",
    [
        None,
        {},
        {"action": {"mean": [0.0]}},
        {"action": {"std": [1.0]}},
        {"action": {"std": [1.0] * 6 + [math.nan]}},
    ],
)
def test_data_whose_statistics_lack_the_actions_spread_are_refused(stats):
    meta = SimpleNamespace(stats=stats, features={"action": {"shape": [7]}})
    with pytest.raises(EvalError, match=r"--dataset_root=data has no std of every dimension .*recompute_stats"):
        action_statistic(meta, Path("data"), "std")
    stats = {"action": {"std": [1.0] * 7}}
    assert action_statistic(SimpleNamespace(stats=stats, features=meta.features), Path("data"), "std").shape == (7,)


def test_a_camera_that_the_training_data_called_otherwise(tmp_path, dataset_root, act_checkpoint, atlasvla_checkpoint):
    """Its pipeline renames the camera, as --rename_map of lerobot-train has it."""
    front = "observation.images.front"
    renamed = [f"--root={dataset_root}", f"--output_dir={tmp_path / 'data'}", f'--rename_map={{"{IMAGE}": "{front}"}}']
    assert rename_columns.main(renamed) == 0
    for number, checkpoint in enumerate((act_checkpoint, atlasvla_checkpoint)):
        folder = shutil.copytree(checkpoint, tmp_path / f"checkpoint{number}")
        file = folder / "policy_preprocessor.json"
        content = json.loads(file.read_text())
        (step,) = (step for step in content["steps"] if step["registry_name"] == "rename_observations_processor")
        step["config"]["rename_map"] = {front: IMAGE}
        file.write_text(json.dumps(content))
        parts = []
        for place, given in ((dataset_root, checkpoint), (tmp_path / "data", folder)):
            out = tmp_path / f"out{number}_{place.name}"
            assert run(given, place, episodes="[0]", output_dir=out) == 0
            parts.append([part["action_change"] for part in read_reliance(out)["parts"]])
        assert parts[0] == parts[1]


def test_what_is_no_result_is_refused(tmp_path, dataset_root, act_checkpoint):
    with pytest.raises(EvalError, match=r"has no reliance\.json"):
        read_reliance(tmp_path)
    file = tmp_path / "reliance.json"
    for text, message in {
        "{": "is not what eval.reliance writes",
        '{"kind": "reliance"}': "is not what eval.reliance writes: KeyError",
        "[]": "is not what eval.reliance writes: TypeError",
        '{"checkpoint": []}': "is not what eval.reliance writes: KeyError",
    }.items():
        file.write_text(text)
        with pytest.raises(EvalError, match=message):
            read_reliance(file)
    assert run(act_checkpoint, dataset_root, output_dir=tmp_path, episodes="[0]") == 0
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "n_action_steps"}))
    with pytest.raises(EvalError, match=r"is not what eval\.reliance writes: KeyError"):
        read_reliance(file)
    content |= {"schema_version": 9}
    file.write_text(json.dumps(content))
    with pytest.raises(EvalError, match="of kind 'reliance', version 9"):
        read_reliance(tmp_path)
