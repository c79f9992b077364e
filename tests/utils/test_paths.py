"""Folders as people type them, for every command that takes one; and why one can't be written."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eval.common.cli import run_command
from lerobot_atlasvla.commands import cache_features, rename_columns, serve
from lerobot_atlasvla.commands.doctor import read_settings
from lerobot_atlasvla.libero.demonstrations import collect, convert
from lerobot_atlasvla.utils.paths import CheckpointNotFoundError, checkpoint_folder, expand_home, pattern_in, why_not


@dataclass
class Flags:
    """Every kind of setting that names a path."""

    root: Path = Path("~/out")
    text: str = "~/in"
    several: list[str] = field(default_factory=lambda: ["~/a", "b"])
    other: str = "a~b"
    home: str = "~"
    number: int = 3
    none: Path | None = None


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_leading_tilde_is_the_home_folder(home):
    flags = expand_home(Flags())
    assert flags == Flags(home / "out", f"{home}/in", [f"{home}/a", "b"], "a~b", str(home), 3, None)
    assert isinstance(flags.root, Path)


@pytest.mark.parametrize(
    ("module", "flags", "setting"),
    [
        (collect, ["--root=~/out"], "root"),
        (convert, ["--root=~/out", "--folder=~/in"], "root"),
        (serve, ["--checkpoint=~/out"], "checkpoint"),
        (rename_columns, ["--root=~/in", "--output_dir=~/out"], "output_dir"),
    ],
)
def test_every_command_expands_it(home, monkeypatch, module, flags, setting):
    seen = []

    def stop(config):
        seen.append(config)
        raise KeyboardInterrupt

    work = {collect: "collect", convert: "convert", serve: "_serve", rename_columns: "rename"}[module]
    monkeypatch.setattr(module, work, stop)
    if module is rename_columns:
        with pytest.raises(KeyboardInterrupt):
            module.main(flags)
    else:
        assert module.main(flags) == 130
    assert str(getattr(seen[0], setting)) == f"{home}/out"


def test_the_evaluations_commands_expand_it(home):
    seen = []
    assert run_command("eval.x", Flags, lambda flags, _: seen.append(flags), ["--root=~/there", "--text=~/x"]) == 0
    assert (seen[0].root, seen[0].text) == (home / "there", f"{home}/x")


def test_atlasvla_check_expands_it(home):
    (home / "preset.yaml").write_text("policy:\n  type: atlasvla\n")
    trial = read_settings(["--config_path=~/preset.yaml", "--dataset.repo_id=a/b", "--dataset.root=~/data"])
    assert trial.dataset.root == f"{home}/data"


# --- characters that LeRobot's reader takes for patterns ---


@pytest.mark.parametrize("name", ["run[2]", "run*", "a?b", "x::y"])
def test_a_folder_that_lerobot_could_not_read_again_is_refused_first(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert "LeRobot's reader of datasets takes for a pattern" in pattern_in(name, "--root")
    for main in (collect.main, convert.main):
        more = ["--folder=."] if main is convert.main else []
        assert main([f"--root={name}", *more]) == 1
        assert f"--root={name} has " in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["x"])
    assert os.listdir() == []
    assert pattern_in("plain-name_1.0 (2)", "--root") == ""


def test_what_is_no_dataset_may_have_any_name(tmp_path):
    """Run folders are read by ourselves: brackets are just characters."""
    from eval.rollout.run_folder import EvalError, read_run
    from lerobot_atlasvla.files.replacing import write_text

    folder = tmp_path / "run[2]"
    write_text(folder / "run.json", "{}")
    with pytest.raises(EvalError, match=r"run\[2\]/run.json is not what eval.run writes"):
        read_run(folder)


def test_the_reader_of_lerobot_does_take_them_for_patterns(dataset_root, tmp_path):
    """What the refusal is for; if this fails, LeRobot can do it now."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    (tmp_path / "run[2]").symlink_to(dataset_root)
    with pytest.raises(ValueError, match="data file"):
        LeRobotDataset("local/test", root=tmp_path / "run[2]")


# --- checkpoints ---


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/last", "checkpoints/000600/pretrained_model"])
def test_a_checkpoint_is_found_from_every_folder_around_it(tmp_path, inside):
    folder = tmp_path / "run/checkpoints/000600/pretrained_model"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (tmp_path / "run/checkpoints/last").symlink_to("000600")
    assert checkpoint_folder(tmp_path / "run" / inside) == folder


def test_what_is_no_checkpoint_is_named_with_its_flag(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"--policy=.*nowhere is not a folder"):
        checkpoint_folder(tmp_path / "nowhere", "--policy")
    with pytest.raises(CheckpointNotFoundError, match=r"neither it nor its pretrained_model nor its checkpoints/last/"):
        checkpoint_folder(tmp_path)


# --- what the operating system says ---


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "Disk quota exceeded; free some space"),
        (errno.EACCES, "Permission denied; choose a folder that you can write to"),
        (errno.EPERM, "Operation not permitted; choose a folder that you can write to"),
        (errno.EROFS, "Read-only file system; choose a folder on another file system"),
        (errno.EIO, "can't be written: Input/output error"),
    ],
)
def test_only_a_full_disk_asks_for_space(number, words):
    sentence = why_not(OSError(number, os.strerror(number), "/data/out"), "/data/out", "--root")
    assert "--root=/data/out" in sentence
    assert words in sentence
    assert ("free some space" in sentence) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "(/data/out/a)" in why_not(OSError(errno.EACCES, "x", "/data/out/a"), "/data/out", "--root")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_the_cache_says_so_too(tmp_path, monkeypatch, number):
    from lerobot_atlasvla.training.feature_cache.key import FeatureCacheError

    def refuse(*_):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(cache_features, "CacheWriter", refuse)
    with pytest.raises(FeatureCacheError, match=r"can't be written: (Permission denied|Read-only)"):
        cache_features.open_writer(tmp_path, None)
