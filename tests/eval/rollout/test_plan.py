"""A run is continued by the same command and may grow; what would mix runs is refused."""

import json

import pytest

from eval.common.errors import EvalError
from eval.rollout import run
from eval.rollout.run import main
from eval.rollout.run_folder import read_run
from tests.eval.rollout.simulated_run import BASE, SIMULATOR, TASKS, config, records


def test_the_same_command_again_changes_nothing(checkpoint, simulated, capsys):
    assert main(BASE) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    before = {file.name: file.read_bytes() for file in (checkpoint.parent / "out").iterdir()}
    simulated.clear()
    assert main(BASE) == 0
    assert simulated == []
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert {file.name: file.read_bytes() for file in (checkpoint.parent / "out").iterdir()} == before


def test_a_run_with_a_temporal_ensemble_is_not_continued_without_or_the_other_way_round(checkpoint, simulated):
    single = [*BASE, "--task_ids=[0]", "--episodes=1", "--n_action_steps=1"]
    ensemble = [*single, "--temporal_ensemble_coeff=0.01", "--output_dir=ensemble"]
    assert main(single) == main(ensemble) == 0
    assert read_run("ensemble").settings["temporal_ensemble_coeff"] == 0.01
    assert "temporal_ensemble_coeff" not in read_run("out").settings
    assert main(ensemble) == 0
    assert main([*single, "--temporal_ensemble_coeff=0.01"]) == 1
    assert main([*single, "--output_dir=ensemble"]) == 1


def test_a_run_can_grow(checkpoint, simulated):
    assert main([*BASE, "--task_ids=[1]", "--episodes=2"]) == 0
    assert main([*BASE, "--task_ids=[1, 2]", "--seeds=[1000, 7]", "--episodes=3", "--workers=1"]) == 0
    assert len(simulated) == len(set(simulated)) == 12
    settings = read_run("out").settings
    assert (settings["task_ids"], settings["seeds"], settings["episodes"]) == ([1, 2], [1000, 7], 3)
    assert main([*BASE, "--task_ids=[0]", "--episodes=1"]) == 0
    settings = read_run("out").settings
    assert (settings["task_ids"], settings["seeds"], settings["episodes"]) == ([0, 1, 2], [1000, 7], 3)
    assert main([*BASE, "--episodes=1"]) == 0
    assert read_run("out").settings["task_ids"] is None


def test_a_run_from_random_placements_does_not_grow_into_the_same_ones(checkpoint, simulated, capsys):
    random = [*BASE, "--task_ids=[0]", "--init_states=false"]
    assert main([*random, "--seeds=[0]"]) == main([*random, "--seeds=[4]"]) == 0
    simulated.clear()
    for flags, seeds, episodes in ((["--seeds=[6]"], [0, 4, 6], 4), (["--seeds=[0]", "--episodes=5"], [0, 4], 5)):
        assert main([*random, *flags]) == 1
        assert (
            f"--seeds={seeds} with --episodes={episodes} (with those of the run in --output_dir=out) repeat random "
            f"placements (--init_states=false), which are drawn with seed + episode; choose --seeds at least "
            f"{episodes} apart." in capsys.readouterr().err
        )
    assert simulated == []
    assert read_run("out").settings["seeds"] == [0, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"n_action_steps": 5}, "--n_action_steps: .* was made with 4, this command asks for 5"),
        ({"image_size": 128}, "--image_size: .* was made with 32, this command asks for 128"),
        ({"pan_deg": 10.0}, r"--pan_deg: .* was made with 0\.0, this command asks for 10\.0"),
        ({"render_quality": "default"}, "--render_quality: .* was made with fast, this command asks for default"),
        ({"settle_steps": 0}, "--settle_steps"),
        ({"init_states": False}, "--init_states"),
        ({"fast_render": False}, "--fast_render"),
        ({"episode_length": 5}, "--episode_length"),
        ({"threads": 2}, "--threads"),
    ],
)
def test_other_settings_cannot_continue_a_run(checkpoint, simulated, override, message):
    assert main([*BASE, "--task_ids=[0]"]) == 0
    before = (checkpoint.parent / "out/run.json").read_bytes()
    simulated.clear()
    with pytest.raises(EvalError, match=message):
        run.run(config(**override), "again")
    assert simulated == []
    assert (checkpoint.parent / "out/run.json").read_bytes() == before


def test_another_checkpoint_cannot_continue_a_run(checkpoint, simulated, capsys):
    assert main(BASE) == 0
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    assert main(BASE) == 1
    assert "--checkpoint=checkpoint has weights" in capsys.readouterr().err


def change_config(checkpoint, **values):
    file = checkpoint / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("change", ["config.json", "policy_preprocessor_step_4_normalizer_processor.safetensors"])
def test_the_same_weights_with_other_settings_cannot_continue_a_run(checkpoint, simulated, capsys, change):
    statistics = checkpoint / "policy_preprocessor_step_4_normalizer_processor.safetensors"
    statistics.write_bytes(b"mean and deviation")
    assert main(BASE) == 0
    before = (checkpoint.parent / "out/run.json").read_bytes()
    if change == "config.json":
        change_config(checkpoint, use_state=False)
    else:
        statistics.write_bytes(b"another mean")
    assert main(BASE) == 1
    assert "config.json or its pipelines (normalization statistics) have changed" in capsys.readouterr().err
    assert (checkpoint.parent / "out/run.json").read_bytes() == before


def test_what_a_run_records_itself_and_what_explains_training_may_change_in_a_checkpoint(checkpoint, simulated):
    assert main([*BASE, "--n_action_steps=4"]) == 0
    change_config(checkpoint, n_action_steps=3, device="cuda")
    (checkpoint / "train_config.json").write_text("{}")
    (checkpoint / "README.md").write_text("A card.")
    assert main([*BASE, "--n_action_steps=4"]) == 0


def test_a_run_of_an_earlier_version_knows_the_weights_only(checkpoint, simulated):
    assert main(BASE) == 0
    file = checkpoint.parent / "out/run.json"
    content = json.loads(file.read_text())
    del content["policy"]["settings_sha256"]
    file.write_text(json.dumps(content))
    change_config(checkpoint, use_state=False)
    assert main(BASE) == 0


def test_another_simulator_cannot_continue_a_run(checkpoint, simulated, monkeypatch, capsys):
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets_source": "elsewhere"})
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"mujoco": "4"})
    assert main(BASE) == 1
    assert "mujoco is 4, but the run in --output_dir=out was made with 3" in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(checkpoint, simulated, capsys):
    folder = checkpoint.parent / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert main(BASE) == 1
    assert "--output_dir=out holds something that is no run (thesis.tex)" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("now", "status"), [("official (verified)", 0), ("stand-in", 1)])
def test_a_run_of_an_earlier_version_is_continued_on_official_assets(checkpoint, simulated, monkeypatch, now, status):
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": "official"})
    assert main(BASE) == 0
    monkeypatch.setattr(run, "describe_simulator", lambda: SIMULATOR | {"assets": now})
    assert main(BASE) == status


def test_a_displacement_is_one_of_the_settings_of_a_run(checkpoint, simulated, capsys):
    assert main([*BASE, "--displace_cm=8"]) == 0
    assert read_run("out").settings["displace_cm"] == 8
    simulated.clear()
    assert main(BASE) == 1
    assert "--displace_cm: the run in --output_dir=out was made with 8.0, this command asks for 0.0" in (
        capsys.readouterr().err
    )
    assert simulated == []


def test_a_run_made_before_objects_could_be_displaced_is_continued_without(checkpoint, simulated, capsys):
    assert main([*BASE, "--episodes=1"]) == 0
    file = checkpoint.parent / "out/run.json"
    old = json.loads(file.read_text())
    del old["settings"]["displace_cm"]
    file.write_text(json.dumps(old))
    assert main([*BASE, "--displace_cm=8"]) == 1
    assert "was made with 0.0, this command asks for 8.0" in capsys.readouterr().err
    assert main(BASE) == 0
    assert len(records()) == 4 * TASKS
