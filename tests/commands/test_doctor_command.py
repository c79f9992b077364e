"""``atlasvla-check`` as a user types it."""

import pytest

from lerobot_atlasvla.commands import doctor, doctor_machine
from tests.helpers.commands import run_command

STAND_IN = {"ATLASVLA_LIBERO_ASSETS": "stand-in"}


def atlasvla_check(*arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Exit status, lines and errors; never a traceback."""
    done = run_command("atlasvla-check", *arguments, environment=environment)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def crosses(lines: list[str]) -> dict[str, str]:
    """Item -> the rest of its line, for all that do not hold."""
    return dict(line.removeprefix("✗ ").split(": ", 1) for line in lines if line.startswith("✗"))


def test_the_tiny_preset_is_ready_without_the_hub():
    status, lines, errors = atlasvla_check(
        "--config_path=configs/policy/atlasvla_tiny.yaml", "--policy.device=cpu", **STAND_IN
    )
    assert crosses(lines) == {}
    assert lines[-1] == "ready"
    assert status == 0
    assert errors == ""
    items = [line.removeprefix("✓ ").split(":")[0] for line in lines[:-1]]
    assert items[:8] == [
        "Python",
        "lerobot",
        "torch",
        "torchvision",
        "transformers",
        "mujoco",
        "hf-libero",
        "robosuite",
    ]
    assert items[-11:] == [
        "CPU and memory",
        "OpenGL",
        "LIBERO assets",
        "LIBERO",
        "VGGT weights",
        "language weights",
        "tokenizer",
        "dataset",
        "policy",
        "forward pass",
        "select_action",
    ]
    assert "STAND-IN" in next(line for line in lines if line.startswith("✓ LIBERO assets"))


@pytest.fixture
def without_simulator(monkeypatch, capsys):
    """The command in this process, and its look at the simulator, which takes seconds, left out."""
    for name in ("check_gl", "check_assets", "check_libero"):
        monkeypatch.setattr(doctor_machine, name, lambda: "left out")

    def check(*arguments: str) -> tuple[int, list[str]]:
        status = doctor.main([*arguments, "--policy.device=cpu"])
        return status, capsys.readouterr().out.splitlines()

    return check


@pytest.mark.usefixtures("nothing_downloaded", "in_repository_root")
def test_pretrained_weights_that_cannot_be_had_name_the_ways_out(without_simulator):
    status, lines = without_simulator(
        "--config_path=configs/policy/atlasvla_libero.yaml",
        "--policy.vggt_model=nobody/views",
        "--policy.language_model=nobody/words",
    )
    assert status == 1
    failed = crosses(lines)
    assert "`hf download nobody/views`" in failed["VGGT weights"]
    assert "--policy.vggt_model" in failed["VGGT weights"]
    assert "`hf download nobody/words`" in failed["language weights"]
    assert failed["tokenizer"] == "skipped: needs language weights"
    assert failed["select_action"] == "skipped: needs policy"
    assert lines[-1] == f"not ready: {len(failed)} of {len(lines) - 1} checks failed"


@pytest.mark.slow
def test_assets_that_are_not_liberos_are_a_cross_with_its_fix(tmp_path):
    """The stand-in's files, without the notice that says so."""
    from lerobot_atlasvla.libero.standin.scene import write_standin

    folder = write_standin(tmp_path / "assets")
    (folder / "NOTICE.md").unlink()
    for name in ("stable_hope_objects", "stable_scanned_objects"):
        (folder / name).mkdir(exist_ok=True)
    _, lines, _ = atlasvla_check(
        "--config_path=configs/policy/atlasvla_tiny.yaml", "--policy.device=cpu", ATLASVLA_LIBERO_ASSETS=str(folder)
    )
    (line,) = crosses(lines).values()
    assert line.startswith(f"official assets in {folder} (ATLASVLA_LIBERO_ASSETS) that are not all LIBERO's own: ")
    assert "of 584 files, first: articulated_objects/" in line
    assert "Fix: unset ATLASVLA_LIBERO_ASSETS and run `pip install --force-reinstall --no-deps libero-pro-" in line
