"""LIBERO's first import: no question, the right assets, a bounded price for a Hub that does not answer."""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from lerobot_atlasvla.libero import assets, gl, hub, setup
from tests.helpers.fresh_home import run_python
from tests.libero.asset_folders import make_assets

# --- the first import -------------------------------------------------------------------------------------------------

FIRST_IMPORT = """
import logging, os
logging.basicConfig(level=logging.INFO)
import lerobot_atlasvla
import libero.libero as L
print("ASSETS", L.get_assets_path())
print("BDDL", L.get_libero_path("bddl_files"))
print("GL", os.environ["MUJOCO_GL"])
"""


def test_first_import_asks_nothing(tmp_path):
    done = run_python(tmp_path / "first.py", FIRST_IMPORT, ATLASVLA_LIBERO_ASSETS="stand-in")
    assert done.returncode == 0, done.stderr
    found = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0] in ("ASSETS", "BDDL", "GL")
    )
    assert Path(found["ASSETS"]).parent == tmp_path / ".cache" / "atlasvla"
    assert (Path(found["BDDL"]) / "libero_spatial").is_dir()
    assert found["GL"] in ("egl", "osmesa")
    assert (tmp_path / ".libero" / "config.yaml").is_file()
    assert done.stderr.count("STAND-IN SCENE") == 1
    assert "Wrote LIBERO's config file" in done.stderr


def test_config_file_is_what_libero_would_write(fresh, monkeypatch):
    import yaml

    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(fresh / "con: fig"))
    setup._write_config()
    content = yaml.safe_load((fresh / "con: fig" / "config.yaml").read_text())
    package = fresh / "package" / "libero"
    assert content == {
        "benchmark_root": str(package),
        "bddl_files": str(package / "bddl_files"),
        "init_states": str(package / "init_files"),
        "datasets": str(package.parent / "datasets"),
        "assets": str(package / "assets"),
    }


def test_config_file_is_never_overwritten(fresh, monkeypatch):
    file = fresh / "config" / "config.yaml"
    file.parent.mkdir()
    file.write_text("mine")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(file.parent))
    setup._write_config()
    assert file.read_text() == "mine"


def test_unwritable_config_folder_names_the_variable(fresh, monkeypatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(fresh / "file" / "config"))
    with pytest.raises(OSError, match="LIBERO_CONFIG_PATH"):
        setup._write_config()


def test_report_names_the_simulator(fresh, monkeypatch):
    monkeypatch.setenv(assets.ENV_ASSETS, "stand-in")
    report = setup.describe_simulator()
    about_assets = {"assets", "assets_source", "assets_path", "assets_note"}
    assert set(report) == {"mujoco", "robosuite", "hf-libero", "gl", "look"} | about_assets
    assert report["assets"] == "stand-in"
    assert all(isinstance(value, str) for value in report.values())


# --- a Hub out of reach -----------------------------------------------------------------------------------------------


@pytest.fixture
def silent_endpoint(monkeypatch):
    """An address that accepts connections and never says a word."""
    try:
        server = socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        pytest.skip(f"no loopback socket: {error}")
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield endpoint
    server.close()


# Without a bound both tests would hang.
@pytest.mark.timeout(120)
def test_silent_hub_is_bounded_and_remembered(silent_endpoint, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.5)
    start = time.monotonic()
    assert hub.download_assets(tmp_path) is None
    assert time.monotonic() - start > 0.4
    verdict = tmp_path / "hub-unreachable.json"
    assert list(json.loads(verdict.read_text())) == [silent_endpoint]
    assert str(verdict) in caplog.text

    probes = []
    monkeypatch.setattr(hub, "_answers", lambda *args: bool(probes.append(args)))
    assert hub.download_assets(tmp_path) is None
    assert not probes
    # The verdict is about one endpoint, and expires.
    monkeypatch.setenv("HF_ENDPOINT", "http://elsewhere.invalid")
    assert hub.download_assets(tmp_path) is None
    assert len(probes) == 1
    monkeypatch.setenv("HF_ENDPOINT", silent_endpoint)
    verdict.write_text(json.dumps({silent_endpoint: time.time() - 3601}))
    assert hub.download_assets(tmp_path) is None
    assert len(probes) == 2


@pytest.mark.timeout(120)
def test_probe_is_bounded_without_any_timeout_of_its_own(monkeypatch):
    """A name look-up cannot be given a timeout."""
    given_up = threading.Event()

    def never(*args, **kwargs):
        given_up.wait()
        raise OSError("too late")

    monkeypatch.setattr(hub.urllib.request, "urlopen", never)
    assert not hub._answers("http://example.invalid", 0.2)
    given_up.set()


def test_probe_survives_disabled_sockets(monkeypatch):
    def blocked(*args, **kwargs):
        raise RuntimeError("sockets are blocked")

    monkeypatch.setattr(hub.urllib.request, "urlopen", blocked)
    assert not hub._answers("http://example.invalid", 5)


def test_offline_means_no_attempt(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_answers", lambda *args: pytest.fail("tried to reach the Hub"))
    assert hub.download_assets(tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_download_appears_under_its_name_only_when_complete(monkeypatch, tmp_path, fails):
    import huggingface_hub

    def snapshot(repository, repo_type, local_dir):
        assert (repository, repo_type) == ("lerobot/libero-assets", "dataset")
        make_assets(Path(local_dir))
        if fails:
            raise OSError("connection lost")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_answers", lambda *args: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = hub.download_assets(tmp_path)
    assert found == (None if fails else tmp_path / "libero-assets")
    assert (tmp_path / "libero-assets").exists() is not fails


# --- OpenGL -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gl_problems(monkeypatch):
    """Pretend which backends work."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    problems = {"egl": "", "osmesa": "", "glx": "no screen"}
    monkeypatch.setattr(gl, "_problem", problems.__getitem__)
    return problems


def test_egl_then_osmesa(gl_problems, monkeypatch):
    assert gl.choose_gl() == os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.delenv("MUJOCO_GL")
    gl_problems["egl"] = "no driver"
    assert gl.choose_gl() == os.environ["MUJOCO_GL"] == "osmesa"


def test_choice_agrees_with_pyopengl(gl_problems, monkeypatch):
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    assert gl.choose_gl() == "osmesa"


def test_no_backend_names_the_cure(gl_problems):
    gl_problems |= {"egl": "no driver", "osmesa": "not installed"}
    with pytest.raises(
        gl.GlUnavailableError, match=r"no driver.*not installed.*apt-get install -y libosmesa6.*MUJOCO_GL"
    ):
        gl.choose_gl()


@pytest.mark.parametrize(("value", "reason"), [("vulkan", "one of egl, osmesa, glx"), ("glx", "no screen")])
def test_explicit_backend_that_cannot_work(gl_problems, monkeypatch, value, reason):
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(gl.GlUnavailableError, match=rf"MUJOCO_GL='{value}'.*{reason}"):
        gl.choose_gl()


def test_missing_library_is_a_problem(monkeypatch):
    monkeypatch.setattr(gl, "_LIBRARIES", {"osmesa": ("libDoesNotExist.so",)})
    assert "libDoesNotExist.so is not installed" in gl._problem("osmesa")


# --- environment workers ----------------------------------------------------------------------------------------------

WORKERS = """
import gymnasium as gym

class Probe(gym.Env):
    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **kwargs):
        import libero.libero as L
        import os
        return 0, {"assets": L.get_assets_path(), "gl": os.environ["MUJOCO_GL"]}

def main():
    import lerobot_atlasvla
    import libero  # as LeRobot does before it starts workers
    env = gym.vector.AsyncVectorEnv([Probe, Probe], context="forkserver")
    _, info = env.reset()
    env.close()
    print("WORKERS", sorted(set(info["assets"])), sorted(set(info["gl"])))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_forkserver_workers_use_the_stand_in(tmp_path):
    done = run_python(tmp_path / "workers.py", WORKERS, ATLASVLA_LIBERO_ASSETS="stand-in")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("WORKERS"))
    assert str(tmp_path / ".cache" / "atlasvla" / "standin-") in line
    assert "egl" in line or "osmesa" in line


def test_config_of_a_removed_environment_is_repaired(fresh, monkeypatch, caplog):
    """What leads nowhere is mended, what the user chose and the old file are kept; a sound file is not touched."""
    package = setup.libero_package()
    for name in ("bddl_files", "init_files"):
        (package / name).mkdir(parents=True)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(fresh))
    file = fresh / "config.yaml"
    broken = (
        "benchmark_root: /gone\nbddl_files: /gone/bddl_files\ninit_states: /gone/init\ndatasets: /mine\nassets: /a\n"
    )
    file.write_text(broken)
    setup._repair_config()
    repaired = file.read_text()
    assert f'bddl_files: "{package / "bddl_files"}"' in repaired
    assert f'init_states: "{package / "init_files"}"' in repaired
    assert 'datasets: "/mine"' in repaired
    assert (fresh / "config.yaml.bak").read_text() == broken
    assert "bddl_files" in caplog.text
    caplog.clear()
    setup._repair_config()
    assert file.read_text() == repaired
    assert not caplog.text


@pytest.mark.parametrize(
    "damage",
    [b"assets: [1, 2", b"a: b: c", b"", b"just text", b"[1, 2]", b"\x00\x01", b"x: !!python/object/apply:f []"],
)
def test_a_damaged_config_file_is_written_anew_and_kept(fresh, monkeypatch, caplog, damage):
    for name in ("bddl_files", "init_files"):
        (setup.libero_package() / name).mkdir(parents=True)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(fresh))
    file = fresh / "config.yaml"
    file.write_bytes(damage)
    setup._repair_config()
    assert f'bddl_files: "{setup.libero_package() / "bddl_files"}"' in file.read_text()
    assert (fresh / "config.yaml.bak").read_bytes() == damage
    assert "was damaged" in caplog.text


def test_a_config_file_that_cannot_be_read_names_the_variable(fresh, monkeypatch):
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(fresh))
    (fresh / "config.yaml").mkdir()
    with pytest.raises(OSError, match=r"cannot be read .*LIBERO_CONFIG_PATH"):
        setup._repair_config()
