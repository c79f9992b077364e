"""Ablations: seeds kept apart, differences by hand, and no verdict that one training seed contradicts."""

import json
from pathlib import Path

import pytest

from eval.report import ablations
from eval.report.results_table import results_block
from tests.eval.run_folders import TRAINING, make_run, rollouts_of


def run_of(path: Path, solved: int, seed: int, *, of: int = 20, **settings) -> Path:
    rollouts = rollouts_of(0, [50] * solved + [0] * (of - solved))
    return make_run(
        path, rollouts, settings={"task_ids": [0], "episodes": of} | settings, training=TRAINING | {"seed": seed}
    )


def flags(tmp_path: Path, runs: list[tuple[str, Path]]) -> list[str]:
    return [
        f"--runs=[{','.join(str(path) for _, path in runs)}]",
        f"--variants=[{','.join(variant for variant, _ in runs)}]",
        f"--reports={tmp_path / 'reports'}",
    ]


def two_seeds(tmp_path: Path, **solved: tuple[int, int]) -> list[tuple[str, Path]]:
    """Runs of every variant at training seeds 1 and 2, with so many of 20 rollouts solved."""
    return [
        (variant, run_of(tmp_path / f"{variant}{seed}", count, seed))
        for variant, counts in solved.items()
        for seed, count in enumerate(counts, 1)
    ]


def test_a_difference_is_shown_only_if_every_training_seed_agrees(tmp_path, capsys):
    runs = two_seeds(tmp_path, full=(16, 14), worse=(4, 6), better=(20, 20), torn=(0, 15), same=(15, 15))
    assert ablations.main(flags(tmp_path, runs)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "full: 30/40 = 75.0 % [59.8, 85.8], reference",
        "worse: 10/40 = 25.0 % [14.2, 40.2], worse",
        "better: 40/40 = 100.0 % [91.2, 100.0], better",
        # Far behind, but not at its second seed.
        "torn: 15/40 = 37.5 % [24.2, 53.0], not shown",
        "same: 30/40 = 75.0 % [59.8, 85.8], not shown",
    ]
    report = (tmp_path / "reports/ablations/report.md").read_text()
    # Wilson: [14.19, 40.19] and [59.81, 85.81]; -50 - sqrt(2) 10.81 = -65.3, -50 + sqrt(2) 15.19 = -28.5.
    assert (
        "| worse | 4/20 = 20.0 % [8.1, 41.6] | 6/20 = 30.0 % [14.5, 51.9] | 10/40 = 25.0 % [14.2, 40.2] | "
        "-50.0 points [-65.3, -28.5] | worse |"
    ) in report
    assert "| torn | 0/20 = 0.0 % [0.0, 16.1] | 15/20 = 75.0 % [53.1, 88.8] |" in report
    assert report.count("## Provenance of") == 10
    assert "| full, seed 1 | not measured | not measured | not measured |" in report
    assert (tmp_path / "reports/ablations/success.png").stat().st_size > 1000


def test_the_figures_in_json_and_in_the_table_of_results(tmp_path):
    runs = two_seeds(tmp_path, full=(16, 14), worse=(4, 6))
    note = tmp_path / "note.md"
    note.write_text("By hand.\n")
    assert ablations.main([*flags(tmp_path, runs), f"--note={note}"]) == 0
    content = json.loads((tmp_path / "reports/ablations/report.json").read_text())
    assert (content["kind"], content["reference"], content["incomplete"]) == ("ablations", "full", [])
    assert content["total"] == "30/40 = 75.0 % [59.8, 85.8]"
    full, worse = content["variants"]
    assert "to_reference" not in full
    assert [run["training_seed"] for run in worse["runs"]] == [1, 2]
    assert worse["to_reference"]["difference"] == pytest.approx(-0.5)
    assert len(worse["runs"][0]["rollout_rows"]) == 20
    block = results_block(tmp_path / "reports", tmp_path / "README.md")
    assert (
        "| [ablations](reports/ablations/report.md) | worse | 2 | 10/40 = 25.0 % [14.2, 40.2] | "
        "-50.0 points [-65.3, -28.5] | worse |"
    ) in block
    # Written again without --note, the remarks stay.
    assert ablations.main(flags(tmp_path, runs)) == 0
    assert "By hand." in (tmp_path / "reports/ablations/report.md").read_text()


def test_an_unfinished_run_is_told(tmp_path):
    runs = two_seeds(tmp_path, full=(16, 14), other=(4, 6))
    runs[-1] = ("other", run_of(tmp_path / "short", 3, 2, of=8, episodes=20))
    assert ablations.main(flags(tmp_path, runs)) == 0
    assert "other, seed 2: incomplete: 8 of 20" in (tmp_path / "reports/ablations/report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs, at: [("full", path) for _, path in runs], "a reference and something else"),
        (lambda runs, at: [*runs, ("full", run_of(at / "again", 3, 1))], "'full' has two runs of training seed 1"),
        (lambda runs, at: [*runs, ("x", run_of(at / "x", 3, 1, image_size=64))], "can't be compared with full, seed 1"),
        (lambda runs, at: [*runs, ("x", make_run(at / "x", rollouts_of(0, [50])))], "with which seed it was trained"),
        (lambda runs, at: [*runs, ("x", at / "nothing")], "is not a run folder"),
    ],
)
def test_what_can_not_be_compared(tmp_path, capsys, change, message):
    runs = change(two_seeds(tmp_path, full=(16, 14), other=(4, 6)), tmp_path)
    assert ablations.main(flags(tmp_path, runs)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_runs_and_variants_must_match(tmp_path, capsys):
    runs = two_seeds(tmp_path, full=(16, 14), other=(4, 6))
    given = flags(tmp_path, runs)
    given[1] = "--variants=[full]"
    assert ablations.main(given) == 1
    assert "--variants must be 4, one for each of --runs, got 1" in capsys.readouterr().err


def test_a_variant_that_no_table_can_hold_is_refused(tmp_path, capsys):
    runs = two_seeds(tmp_path, full=(16, 14), other=(4, 6))
    given = flags(tmp_path, runs)
    given[1] = "--variants=['a|b', c, c, c]"
    assert ablations.main(given) == 1
    assert "--variants=['a|b', 'c'] must differ from each other" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_a_report_of_another_kind_is_not_replaced(tmp_path, capsys):
    folder = tmp_path / "reports/ablations"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"kind": "rollouts", "schema_version": 1}')
    assert ablations.main(flags(tmp_path, two_seeds(tmp_path, full=(16, 14), other=(4, 6)))) == 1
    assert "choose another --name" in capsys.readouterr().err
    assert not (folder / "report.md").exists()
