"""``atlasvla-collect``: what is simulated, what is said, and what is refused."""

import json
from dataclasses import replace

import pytest

from lerobot_atlasvla.libero.cameras.ranges import NoPoseError
from lerobot_atlasvla.libero.dataset_settings import CollectionError
from lerobot_atlasvla.libero.demonstrations import collect as collect_module
from lerobot_atlasvla.libero.demonstrations import collector as collector_module
from lerobot_atlasvla.libero.demonstrations.collect import collect, main
from lerobot_atlasvla.libero.demonstrations.collect_record import RECORD_NAME
from lerobot_atlasvla.libero.demonstrations.episode import Attempt, Job
from lerobot_atlasvla.libero.patches.displacement import DisplacementError
from tests.libero.demonstrations.fake_simulator import EXPECTED, REPO_ID, config, contents, fake_attempt


def test_no_more_attempts_than_needed_are_simulated(tmp_path, fake_simulator, monkeypatch):
    jobs = []
    monkeypatch.setattr(collect_module, "run_job", lambda job: (jobs.append(job), fake_attempt(job))[1])
    collect(config(tmp_path / "ds", workers=2))
    assert sorted((job.task_id, job.attempt) for job in jobs) == [(task, n) for task in (2, 5) for n in range(4)]


def test_a_dataset_can_grow(tmp_path, fake_simulator):
    collect(config(tmp_path / "ds", task_ids=[2]))
    collect(config(tmp_path / "ds", task_ids=[2, 5]))
    assert contents(tmp_path / "ds") == EXPECTED
    collect(config(tmp_path / "ds", task_ids=[2], episodes_per_task=4))
    assert contents(tmp_path / "ds") == [*EXPECTED, ("instruction 2", 5, 3)]


def test_the_same_command_again_changes_nothing(tmp_path, fake_simulator, monkeypatch):
    collect(config(tmp_path / "ds"))
    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", None)  # a finished dataset needs no workers
    assert collect(config(tmp_path / "ds")).new_episodes == 0
    assert contents(tmp_path / "ds") == EXPECTED


def test_a_task_that_keeps_failing_stops_the_run(tmp_path, fake_simulator, monkeypatch):
    def hopeless(job: Job) -> Attempt:
        return Attempt("name", "instruction", None) if job.task_id == 5 else fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", hopeless)
    with pytest.raises(CollectionError, match=r"Task 5 .* failed 4 times in a row \(--max_failures=4\)"):
        collect(config(tmp_path / "ds", max_failures=4))
    assert contents(tmp_path / "ds") == EXPECTED[:3]


def test_several_suites_fill_one_dataset(tmp_path, fake_simulator, capsys):
    root = tmp_path / "ds"
    collect(config(root, task_ids=[2]))
    both = [f"--root={root}", f"--repo_id={REPO_ID}", "--task_ids=[2]", "--image_size=8", "--save_every=2"]
    assert main([*both, "--suite=libero_spatial,libero_90,libero_object", "--episodes_per_task=3"]) == 0
    out = capsys.readouterr().out
    assert "skipped, because the scripted expert does not know them: 1 tasks (2 of libero_90)" in out
    assert contents(root) == 2 * EXPECTED[:3]
    record = json.loads((root / "meta" / RECORD_NAME).read_text())
    assert list(record["tasks"]) == ["libero_spatial/2", "libero_object/2"]
    assert record["settings"]["suite"] == "libero_spatial,libero_object"
    # Goal has another limit of steps than the others; each keeps its own.
    collect(config(root, suite="libero_goal", task_ids=[2], episodes_per_task=1))
    collect(config(root, task_ids=[2], episodes_per_task=4))
    assert contents(root) == [*2 * EXPECTED[:3], EXPECTED[0], ("instruction 2", 5, 3)]


def test_every_suite_has_its_own_limit_of_steps(tmp_path):
    jobs = {suite: config(tmp_path, suite=suite).job((suite, 2), 0) for suite in ("libero_object", "libero_goal")}
    assert {suite: job.max_steps for suite, job in jobs.items()} == {"libero_object": 280, "libero_goal": 300}
    assert config(tmp_path, max_steps=99).job(("libero_goal", 2), 0).max_steps == 99


@pytest.mark.parametrize("settings", [{"max_steps": 760}, {"max_steps": 980, "recovery_share": 0.0}])
def test_an_attempt_may_take_all_steps_of_an_episode(tmp_path, settings):
    config(tmp_path, **settings).validate()


def test_a_task_that_is_solved_at_the_start_is_refused(tmp_path, fake_simulator, monkeypatch):
    def solved(job: Job) -> Attempt:
        return (
            replace(fake_attempt(job), trajectory=None, solved_at_start=True) if job.task_id == 5 else fake_attempt(job)
        )

    monkeypatch.setattr(collect_module, "run_job", solved)
    with pytest.raises(CollectionError, match=r"Task 5 of libero_spatial .* solved before anything was done, 3 times"):
        collect(config(tmp_path / "ds"))
    assert contents(tmp_path / "ds") == EXPECTED[:3]


def test_a_dataset_of_other_features_is_refused(tmp_path, fake_simulator, monkeypatch):
    root = tmp_path / "ds"
    collect(config(root, task_ids=[2], episodes_per_task=1))
    info = root / "meta" / "info.json"
    features = json.loads(info.read_text())
    features["features"]["observation.depth"] = {"dtype": "float32", "shape": [1], "names": None}
    info.write_text(json.dumps(features))
    monkeypatch.setattr(collector_module, "ProcessPoolExecutor", None)
    with pytest.raises(CollectionError, match=r"other features .* differ in observation\.depth"):
        collect(config(root, task_ids=[2]))


def test_a_displacement_without_valid_placement_is_told_without_a_traceback(tmp_path, fake_simulator, monkeypatch):
    def no_placement(job: Job) -> Attempt:
        raise DisplacementError("displace_cm=8 leaves no valid placement.")

    monkeypatch.setattr(collect_module, "run_job", no_placement)
    with pytest.raises(CollectionError, match="displace_cm=8 leaves no valid placement"):
        collect(config(tmp_path / "ds", displace_cm=8.0))


@pytest.mark.parametrize("error", [DisplacementError, NoPoseError])
def test_an_attempt_without_valid_draw_is_a_failed_one(tmp_path, fake_simulator, monkeypatch, error):
    def unlucky(job: Job) -> Attempt:
        if job.task_id == 5 and 1 <= job.attempt <= 3:
            raise error("nothing valid was drawn")
        return fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", unlucky)
    task = collect(config(tmp_path / "ds", task_ids=[5], max_failures=5)).tasks["libero_spatial", 5]
    assert (task.kept, task.name) == (3, "name_5")
    assert task.attempts > 3
    with pytest.raises(CollectionError, match="nothing valid was drawn"):
        collect(config(tmp_path / "other", task_ids=[5], max_failures=3))


def test_bad_draws_among_other_failures_do_not_end_a_collection(tmp_path, fake_simulator, monkeypatch):
    def late(job: Job) -> Attempt:
        if job.attempt in (2, 3):
            raise DisplacementError("nothing valid was drawn")
        return replace(fake_attempt(job), trajectory=None) if job.attempt < 2 else fake_attempt(job)

    monkeypatch.setattr(collect_module, "run_job", late)
    assert collect(config(tmp_path / "ds", task_ids=[5])).tasks["libero_spatial", 5].kept == 3


def test_summary_names_the_numbers(tmp_path, fake_simulator, capsys):
    root = tmp_path / "ds"
    args = [f"--root={root}", f"--repo_id={REPO_ID}", "--task_ids=[2]", "--episodes_per_task=3", "--image_size=8"]
    assert main(args) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if "instruction 2" in line)
    assert row[:4] == ["2", "4", "3", "75%"]
    assert "starting from a mishap: 2 attempts, 1 kept" in out
    assert "new episodes: 3" in out
    assert str(root) in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"suite": "libero_kitchen"}, r"--suite=libero_kitchen .* allowed: libero_spatial, libero_object"),
        ({"suite": "libero_goal,libero_goal"}, r"--suite=libero_goal,libero_goal .* none twice"),
        ({"suite": "libero_goal,libero_object", "task_ids": [10]}, r"0 to 9 of libero_goal; .* 10\."),
        (
            {"suite": "libero_90"},
            r"--suite=libero_90 .* no task that the scripted expert knows; it knows",
        ),
        (
            {"suite": "libero_spatial,libero_goal", "task_ids": [1, 7], "displace_cm": 6.0},
            r"--displace_cm=6 .* names none: 7 of libero_goal\. Leave them out with --task_ids",
        ),
        ({"task_ids": [3, 10]}, r"--task_ids=\[3, 10\] .* 0 to 9 .* 10\."),
        ({"task_ids": [-1]}, r"--task_ids=\[-1\] .* 0 to 9"),
        ({"task_ids": []}, r"--task_ids=\[\] .* 0 to 9"),
        ({"image_size": 0}, "--image_size=0 must be at least 1"),
        ({"episodes_per_task": 0}, "--episodes_per_task=0 must be at least 1"),
        ({"workers": 0}, "--workers=0 must be at least 1"),
        ({"noise": -0.1}, "--noise=-0.1 must be at least 0"),
        ({"noise": float("nan")}, "--noise=nan must be at least 0"),
        ({"arm_start_rad": -0.1}, r"--arm_start_rad=-0.1 must lie in 0 \.\. 1"),
        ({"arm_start_rad": 1.1}, r"--arm_start_rad=1.1 must lie in 0 \.\. 1"),
        ({"arm_start_rad": float("nan")}, r"--arm_start_rad=nan must lie in 0 \.\. 1"),
        ({"recovery_share": -0.1}, r"--recovery_share=-0.1 must lie in 0 \.\. 1\."),
        ({"recovery_share": 1.5}, r"--recovery_share=1.5 must lie in 0 \.\. 1\."),
        ({"recovery_share": float("nan")}, r"--recovery_share=nan must lie in 0 \.\. 1\."),
        ({"seed": -1}, "--seed=-1 must be at least 0"),
        ({"save_every": 0}, "--save_every=0 must be at least 1"),
        ({"max_steps": 761}, r"--max_steps=761 and --extra_steps=10 must be at most 770 together: .* after 1000 steps"),
        ({"extra_steps": 491}, r"--max_steps=280 and --extra_steps=491 must be at most 770"),
        ({"max_steps": 981, "recovery_share": 0.0}, r"--max_steps=981 and --extra_steps=10 must be at most 990"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, no_simulator, override, message):
    with pytest.raises(CollectionError, match=message):
        collect(config(tmp_path / "ds", **override))
    assert not (tmp_path / "ds").exists()
