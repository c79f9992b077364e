"""Ahead or noise: paired counts by hand, what is ignored, and what is refused."""

import json

import pytest

from eval.report import command as report
from eval.report.compare import compare, main, obstacles, verdict
from eval.rollout.run_folder import read_run
from tests.eval.run_folders import make_run, rollouts_of

GOOD, BAD = rollouts_of(0, [50] * 20), rollouts_of(0, [0] * 16 + [60] * 4)


def said(capsys, *arguments, status=0):
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_who_is_ahead(tmp_path, capsys):
    a, b = make_run(tmp_path / "good", GOOD), make_run(tmp_path / "bad", BAD)
    out = said(capsys, a, b)
    assert "both succeed 4, only good 16, only bad 0, neither 0; McNemar's exact p = 3.05e-05." in out
    # Wilson: [83.9, 100] and [8.1, 41.6]; 80 - sqrt(16.113^2 + 21.602^2) = 53.0504, 80 + 11.9.
    assert out.splitlines()[-1] == "good is ahead by 80.0 points [53.1, 91.9]."
    assert said(capsys, b, a).splitlines()[-1] == "good is ahead by 80.0 points [53.1, 91.9]."
    assert "Ignored" not in out


def test_the_size_of_a_blind_policys_videos_is_no_obstacle(tmp_path):
    a, b = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", BAD, settings={"image_size": 64, "cameras": {}})
    assert obstacles(read_run(a), read_run(b)) == []


def test_noise(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", GOOD[:4]), make_run(tmp_path / "b", GOOD[:4])
    assert "a minus b is +0.0 points [-49.0, 49.0]: this is noise: 0 lies in the interval." in said(capsys, a, b)


def test_unshared_states_are_ignored_in_pairs_only():
    result = compare(rollouts_of(0, [50, 0, 50, 0, 50]), rollouts_of(0, [50, 50, 0]))
    assert (result.both, result.only_a, result.only_b, result.neither) == (1, 1, 1, 0)
    assert (result.unshared_a, result.unshared_b) == (2, 0)
    assert result.difference == pytest.approx(3 / 5 - 2 / 3)
    assert result.p_value == 1.0


def test_ignored_states_and_other_seeds_are_told(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", BAD[:5])
    assert "Ignored in the paired figures: 15 rollouts that only a has and 0 that only b has." in said(capsys, a, b)
    other = make_run(tmp_path / "c", rollouts_of(0, [50], seed=7))
    assert "nothing is paired: 20 rollouts that only a has and 1 that only c has" in said(capsys, a, other)


def test_disagreement_of_the_two_tests_is_told(tmp_path, capsys):
    # 6 pairs speak for A and none for B, but 18 against 12 of 30 is within the noise of independent rollouts.
    a = make_run(tmp_path / "a", rollouts_of(0, [50] * 18 + [0] * 12))
    b = make_run(tmp_path / "b", rollouts_of(0, [50] * 12 + [0] * 18))
    out = said(capsys, a, b)
    assert "p = 0.0312" in out
    assert "disagree (p < 0.05)" in out
    assert "this is noise" in out


@pytest.mark.parametrize(
    ("settings", "simulator", "message"),
    [
        ({"look": "fast"}, {}, "render_quality: 'default' and 'fast'"),
        ({"image_size": 64}, {}, "image_size: 256 and 64"),
        ({"settle_steps": 20}, {}, "settle_steps: 10 and 20"),
        ({"episode_length": 99}, {}, "episode_length: None and 99"),
        ({"init_states": False}, {}, "init_states: True and False"),
        ({"camera_shift": {"right_cm": 5.0}}, {}, "camera_shift: "),
        ({"displace_cm": 8.0}, {}, "displace_cm: 0.0 and 8.0"),
        ({}, {"assets": "stand-in"}, "assets: 'official' and 'stand-in'"),
        ({}, {"assets_note": "bowl replaced"}, "assets_note: '' and 'bowl replaced'"),
        ({}, {"mujoco": "3.2.0"}, "mujoco: '3.3.2' and '3.2.0'"),
    ],
)
def test_other_settings_are_refused(tmp_path, capsys, settings, simulator, message):
    a, b = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", BAD, settings, simulator)
    assert message in said(capsys, a, b, status=1)
    forced = said(capsys, a, b, "--force")
    assert f"forced, although they differ in {message}" in forced
    assert "a is ahead" in forced


def test_other_tasks_are_refused(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", [*BAD, *rollouts_of(3, [0])])
    assert "tasks: only the second has libero_spatial 3" in said(capsys, a, b, status=1)
    # How a policy acts and is rendered does not matter.
    same = make_run(tmp_path / "c", BAD, {"n_action_steps": 5, "fast_render": False, "cameras": {}}, {"gl": "osmesa"})
    assert obstacles(read_run(a), read_run(same)) == []


def test_assets_that_an_early_run_calls_official_only_may_be_the_same(tmp_path):
    early = read_run(make_run(tmp_path / "a", GOOD, simulator={"assets": "official"}))
    for name, assets, differ in (("b", "official (verified)", False), ("c", "stand-in", True)):
        other = read_run(make_run(tmp_path / name, BAD, simulator={"assets": assets}))
        assert bool(obstacles(early, other)) == differ


def test_reports_are_compared_like_their_runs(tmp_path, capsys):
    a, b = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", BAD)
    assert report.main([f"--run={a}", f"--reports={tmp_path}", "--name=ra"]) == 0
    assert report.main([f"--run=[{a}, {b}]", f"--reports={tmp_path}", "--name=both"]) == 0
    capsys.readouterr()
    assert said(capsys, tmp_path / "ra", b) == said(capsys, a, b) == said(capsys, tmp_path / "ra/report.json", b)
    content = json.loads((tmp_path / "both/report.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps(content | {"runs": []}))
    assert "none.json holds no run" in said(capsys, tmp_path / "none.json", b, status=1)
    assert "holds 2 runs (a, b)" in said(capsys, tmp_path / "both", b, status=1)
    assert "neither a run folder" in said(capsys, tmp_path / "nowhere", b, status=1)
    (tmp_path / "x.json").write_text('{"kind": "camera_shift"}')
    assert "kind 'camera_shift'" in said(capsys, tmp_path / "x.json", b, status=1)
    (tmp_path / "x.json").write_text("{")
    assert "is not what eval.report writes" in said(capsys, tmp_path / "x.json", b, status=1)


def test_zero_at_the_edge_of_the_interval_is_noise():
    result = compare(GOOD, GOOD)
    assert result.noise
    assert "noise" in verdict("A", "B", result)
