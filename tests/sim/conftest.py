"""Fixtures of the simulator's tests."""

import pytest

from lerobot_atlasvla.sim import asset_digests, assets, setup
from tests.asset_folders import write_manifest


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has looked nothing up, with its own home, cache, (empty) LIBERO package and small asset tree."""
    monkeypatch.setattr(assets, "_resolved", None)
    for name in (assets.ENV_ASSETS, assets._ENV_RESOLVED):
        # Set, then deleted: the undo then also removes what the code under test puts there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATLASVLA_CACHE", str(tmp_path / "cache"))
    for module in (assets, setup):
        monkeypatch.setattr(module, "libero_package", lambda: tmp_path / "package" / "libero")
    # The asset packages of this machine, if it has them, are not those of the test.
    monkeypatch.setattr(assets, "_NAMESPACE", "atlasvla_test_assets")
    monkeypatch.setattr(asset_digests, "MANIFEST", write_manifest(tmp_path / "manifest.sha256"))
    return tmp_path
