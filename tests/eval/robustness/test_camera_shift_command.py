"""The command: what it asks of ``eval.run``, in which order, and what it refuses before anything is run."""

import json
import shlex
from concurrent.futures.process import BrokenProcessPool

import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from eval.common.errors import EvalError
from eval.robustness.camera_shift import command as camera_shift
from eval.robustness.camera_shift.command import main
from eval.robustness.camera_shift.grid import Point
from eval.rollout.run_folder import Rollout, Run, open_log, read_run, write_run
from eval.rollout.settings import RunConfig
from lerobot_atlasvla.libero.patches.camera_pose import CameraShift
from tests.helpers.forked import Forked, hold


class Runs:
    """Stands for ``eval.run``: writes the run folder, every rollout a success, and notes what was asked."""

    def __init__(self, stop_after=None, error=None):
        self.configs: list[RunConfig] = []
        self.commands: list[str] = []
        self._stop_after, self._error = stop_after, error

    def __call__(self, cfg: RunConfig, command: str) -> Run:
        if self._error is not None and len(self.configs) == self._stop_after:
            raise self._error
        cfg.validate()
        self.configs.append(cfg)
        self.commands.append(command)
        run = Run(
            name=cfg.output_dir.name,
            command=command,
            policy={"type": "act", "weights_sha256": str(cfg.checkpoint)},
            training=None,
            settings=cfg.settings(cfg.n_action_steps, {"agentview_image": "image"}, cfg.image_size or 96),
            versions={"commit": "abc"},
            simulator={"mujoco": "3"},
            path=cfg.output_dir,
        )
        write_run(run)
        done = {rollout.key for rollout in read_run(cfg.output_dir).rollouts}
        with open_log(cfg.output_dir) as log:
            for seed in cfg.seeds:
                for state in range(cfg.episodes):
                    rollout = Rollout("libero_spatial", 0, "pick", seed, state, True, 5, 1.0)
                    if rollout.key not in done:
                        log.append(rollout)
        return read_run(cfg.output_dir)

    @property
    def visited(self) -> list[tuple[str, str]]:
        return [(cfg.output_dir.parent.name, cfg.output_dir.name) for cfg in self.configs]


@pytest.fixture
def runs(monkeypatch) -> Runs:
    stand_in = Runs()
    monkeypatch.setattr(camera_shift, "run", stand_in)
    return stand_in


@pytest.fixture
def checkpoints(tmp_path) -> list:
    """Two that look complete to ``eval.run`` as long as nobody loads their weights."""
    features = {
        "input_features": {"observation.images.image": PolicyFeature(FeatureType.VISUAL, (3, 96, 96))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
        "device": "cpu",
    }
    folders = []
    for name, config in (("one", ACTConfig(**features)), ("two", DiffusionConfig(**features))):
        folder = tmp_path / name
        config.save_pretrained(folder)
        (folder / "model.safetensors").write_bytes(name.encode())
        folders.append(folder)
    return folders


def arguments(tmp_path, checkpoints, *more) -> list[str]:
    given = {flag.split("=")[0] for flag in more}
    usual = [
        f"--checkpoints=[{','.join(map(str, checkpoints))}]",
        f"--output_dir={tmp_path / 'out'}",
        "--name=my_shift",
        f"--reports={tmp_path / 'reports'}",
        "--right_cm=[-20,10,20]",
        "--pan_deg=[-5]",
        "--task_ids=[0]",
        "--episodes=2",
        "--views=false",
        "--device=cpu",
    ]
    return [*(flag for flag in usual if flag.split("=")[0] not in given), *more]


ORDER = ["unshifted", "right_cm=10", "pan_deg=-5", "right_cm=-20", "right_cm=20"]


def test_points_come_outwards_and_checkpoints_take_turns(tmp_path, checkpoints, runs, capsys):
    assert main(arguments(tmp_path, checkpoints)) == 0
    assert runs.visited == [(label, point) for point in ORDER for label in ("act-1", "diffusion-2")]
    assert [cfg.checkpoint for cfg in runs.configs[:2]] == checkpoints
    # 5 points of 2 rollouts.
    assert capsys.readouterr().out.splitlines() == [
        f"report: {tmp_path / 'reports/my_shift/report.md'}",
        "total: 10/10 = 100.0 % [72.2, 100.0]",
    ]
    assert json.loads((tmp_path / "reports/my_shift/report.json").read_text())["complete"] is True


def test_views_of_the_ends_of_the_sweeps_are_taken_unless_told_otherwise(
    tmp_path, checkpoints, runs, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(camera_shift, "take_views", lambda *call: asked.append(call))
    assert main(arguments(tmp_path, checkpoints, "--views=true")) == 0
    ((suite, task_id, quality, wanted),) = asked
    assert (suite, task_id, quality) == ("libero_spatial", 0, "default")
    places = {(shift.right_cm, shift.pan_deg) for shift in wanted.values()}
    assert places == {(0, 0), (-20, 0), (20, 0), (0, -5)}

    def die(*_):
        raise BrokenProcessPool("killed")

    monkeypatch.setattr(camera_shift, "take_views", die)
    assert main(arguments(tmp_path, checkpoints, "--views=true")) == 1
    assert "died without a Python error. --views=false leaves them out" in capsys.readouterr().err


def test_a_second_command_is_refused_before_it_changes_the_grid(tmp_path, checkpoints, runs, capsys):
    assert main(arguments(tmp_path, checkpoints)) == 0
    before, visited = (tmp_path / "out/grid.json").read_bytes(), len(runs.visited)
    with Forked(hold, tmp_path / "out") as first:
        assert first.told() == "held"
        assert main(arguments(tmp_path, checkpoints, "--episodes=9")) == 1
    assert f"Another process is writing to --output_dir={tmp_path / 'out'}" in capsys.readouterr().err
    assert (tmp_path / "out/grid.json").read_bytes() == before
    assert len(runs.visited) == visited


def test_checkpoints_of_different_image_sizes_need_a_choice(tmp_path, checkpoints, runs, capsys):
    file = checkpoints[1] / "config.json"
    file.write_text(file.read_text().replace("96", "64"))
    assert main(arguments(tmp_path, checkpoints)) == 1
    assert "different sizes, [64, 96]; choose one with --image_size" in capsys.readouterr().err
    assert runs.visited == []
    assert not (tmp_path / "out").exists()
    assert main(arguments(tmp_path, checkpoints, "--image_size=80")) == 0
    assert {cfg.image_size for cfg in runs.configs} == {80}


def test_the_shift_and_every_option_reach_the_run(tmp_path, checkpoints, runs):
    options = {
        "seeds": [7, 8],
        "episodes": 3,
        "n_action_steps": 4,
        "image_size": 64,
        "episode_length": 20,
        "workers": 1,
        "fast_render": False,
        "render_quality": "fast",
        "displace_cm": 6.0,
        "allow_other_assets": True,
        "videos": 1,
    }
    directions = ["--right_cm=[]", "--pan_deg=[2.5]", "--up_cm=[-3]", "--forward_cm=[4]", "--tilt_deg=[6]"]
    flags = [f"--{name}={json.dumps(value)}" for name, value in options.items()]
    directions += ["--roll_deg=[7]", "--azimuth_deg=[-40]", "--elevation_deg=[8]", "--distance_percent=[9]"]
    command = arguments(tmp_path, checkpoints[:1], *flags, *directions)
    assert main(command) == 0
    assert {cfg.output_dir.name: cfg.camera_shift() for cfg in runs.configs} == {
        "unshifted": CameraShift(),
        "pan_deg=2.5": CameraShift(pan_deg=2.5),
        "up_cm=-3": CameraShift(up_cm=-3),
        "forward_cm=4": CameraShift(forward_cm=4),
        "tilt_deg=6": CameraShift(tilt_deg=6),
        "roll_deg=7": CameraShift(roll_deg=7),
        "azimuth_deg=-40": CameraShift(azimuth_deg=-40),
        "elevation_deg=8": CameraShift(elevation_deg=8),
        "distance_percent=9": CameraShift(distance_percent=9),
    }
    for cfg in runs.configs:
        assert {name: getattr(cfg, name) for name in options} == options
        assert cfg.task_ids == [0]
        assert cfg.device == "cpu"
    assert {tuple(shlex.split(text)) for text in runs.commands} == {("python", "-m", "eval.camera_shift", *command)}


def test_what_is_run_by_default(tmp_path, checkpoints, runs):
    cfg = camera_shift.CameraShiftConfig(output_dir=tmp_path / "shift", checkpoints=checkpoints[:1])
    points = cfg.grid(["act"], "command").points()
    assert [str(point) for point in points] == [
        "unshifted",
        *("right_cm=-5", "right_cm=5", "pan_deg=-5", "pan_deg=5"),
        *("right_cm=-10", "right_cm=10", "pan_deg=-10", "pan_deg=10"),
        *("right_cm=-20", "right_cm=20"),
    ]
    asked = cfg.run_config(checkpoints[0], "act-1", Point())
    assert (asked.episodes, asked.videos, asked.n_action_steps) == (10, 0, None)


def test_a_stopped_grid_is_reported_and_continued(tmp_path, checkpoints, monkeypatch, capsys):
    stopped = Runs(stop_after=3, error=KeyboardInterrupt())
    monkeypatch.setattr(camera_shift, "run", stopped)
    command = arguments(tmp_path, checkpoints)
    assert main(command) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
    assert main([*command, "--report_only=true"]) == 0
    report = (tmp_path / "reports/my_shift/report.md").read_text()
    assert "**incomplete: 2 of 5 points of act-1, 1 of 5 points of diffusion-2.**" in report
    # The report names the command that ran, not the one that reported.
    assert "report_only" not in report

    kept = (tmp_path / "out/act-1/unshifted/rollouts.jsonl").read_bytes()
    again = Runs()
    monkeypatch.setattr(camera_shift, "run", again)
    assert main(command) == 0
    assert len(again.visited) == 10
    assert (tmp_path / "out/act-1/unshifted/rollouts.jsonl").read_bytes() == kept
    assert "incomplete" not in (tmp_path / "reports/my_shift/report.md").read_text()


def test_an_error_of_a_run_stops_the_grid(tmp_path, checkpoints, monkeypatch, capsys):
    runs = Runs(stop_after=3, error=EvalError("its look differs"))
    monkeypatch.setattr(camera_shift, "run", runs)
    assert main(arguments(tmp_path, checkpoints)) == 1
    assert "diffusion-2, right_cm=10: its look differs" in capsys.readouterr().err
    assert len(runs.visited) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoints=[]"], "No checkpoint is given"),
        (["--labels=[one]"], "has 1 entries for 2 --checkpoints"),
        (["--labels=[one, one]"], "must all be different"),
        (["--labels=[one, a/b]"], "'a/b' cannot name a folder"),
        (["--labels=[one, _views]"], "'_views' cannot name a folder"),
        (["--right_cm=[5, 10, 5.0]"], "names a shift twice"),
        (["--right_cm=[-5, 0, 5]"], "contains 0; leave it out: the unshifted camera is always run"),
        (["--right_cm=[]", "--pan_deg=[]"], "No shift is asked for; give a list to one of --right_cm"),
        (["--name=moved"], "--name=moved must be the name of a folder and contain the word shift"),
        (["--name=../shift"], "--name=../shift must be the name of a folder"),
        (["--suites=[libero_spacial]"], "--suites names 'libero_spacial'; allowed: libero_spatial"),
        (["--episodes=51"], "--episodes=51 is more than the 50"),
        (["--render_quality=dark"], "--render_quality=dark is not a render quality"),
        (["--n_action_steps=1000"], "--n_action_steps=1000 must lie in 1 .. 100"),
        (["--note=nowhere.md"], "nowhere.md"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, checkpoints, runs, capsys, more, message):
    assert main(arguments(tmp_path, checkpoints, *more)) == 1
    assert message in capsys.readouterr().err
    assert runs.configs == []
    assert not (tmp_path / "out").exists()


def test_a_second_checkpoint_that_is_none_is_found_at_once(tmp_path, checkpoints, runs, capsys):
    (checkpoints[1] / "model.safetensors").unlink()
    assert main(arguments(tmp_path, checkpoints)) == 1
    assert "two has no weights" in capsys.readouterr().err
    assert runs.configs == []


def test_a_folder_with_something_else_is_left_alone(tmp_path, checkpoints, runs, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{}")
    assert main(arguments(tmp_path, checkpoints)) == 1
    assert "holds something that is no grid (run.json)" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["run.json"]


def test_the_report_is_named_after_the_folder(tmp_path, checkpoints, runs):
    flags = [flag for flag in arguments(tmp_path, checkpoints) if not flag.startswith(("--name", "--output_dir"))]
    assert main([*flags, f"--output_dir={tmp_path / 'wide_shift'}"]) == 0
    assert (tmp_path / "reports/wide_shift/report.md").exists()
