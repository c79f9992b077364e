"""A built wheel in a fresh environment is discovered by LeRobot, and importing the plugin stays light."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

OURS = ("lerobot_policy_atlasvla", "lerobot_atlasvla", "_lerobot_policy_atlasvla", "_editable", "__editable__")


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory):
    """A new virtual environment with our wheel and links to everything else that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    # LeRobot matches the name with underscores; some build backends write dashes and are never discovered.
    assert wheel.name.startswith("lerobot_policy_atlasvla-")

    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OURS) and entry.suffix != ".pth":
            (dependencies / entry.name).symlink_to(entry)
    venv.create(folder / "venv", system_site_packages=False)
    python = folder / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(str(dependencies))
    return python


# One process for all, since importing LeRobot takes most of the time.
LOOK = """
import importlib.metadata, json, sys
import lerobot.policies.factory
from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

before = set(sys.modules)
register_third_party_plugins()
told = {
    "added": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
    "model": [name for name in sys.modules if name.startswith("lerobot_atlasvla.model")],
    "policy": PreTrainedConfig.get_choice_class("atlasvla").__name__,
    "file": sys.modules["lerobot_atlasvla"].__file__,
    "requires": importlib.metadata.requires("lerobot_policy_atlasvla"),
}
from lerobot_atlasvla.libero import asset_digests
print(json.dumps(told | {"digests": len(asset_digests.read_manifest()), "manifest": str(asset_digests.MANIFEST)}))
"""


@pytest.fixture(scope="module")
def told(wheel_python):
    done = subprocess.run([wheel_python, "-I", "-c", LOOK], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_wheel_is_discovered(wheel_python, told):
    assert told["policy"] == "AtlasVLAConfig"
    assert Path(told["file"]).is_relative_to(wheel_python.parents[1])


def test_discovering_the_plugin_stays_light(told):
    """What LeRobot imports at every start must not pull in the network or the simulator."""
    assert "lerobot_policy_atlasvla" in told["added"]
    assert not set(told["added"]) & {
        "transformers",
        "torchvision",
        "libero",
        "mujoco",
        "robosuite",
        "datasets",
        "h5py",
        "matplotlib",
        "scipy",
        "tensorboard",
    }
    # Sizes, and the record of a pretrained backbone, are plain numbers and JSON; networks come with the first policy.
    light = ("", ".sizes", ".sizes.architecture", ".sizes.memory", ".geometry", ".geometry.record")
    assert set(told["model"]) <= {f"lerobot_atlasvla.model{name}" for name in light}


def test_the_wheel_requires_lerobot_only_and_has_extras_for_the_rest(told):
    requirements = [Requirement(line) for line in told["requires"]]

    def names(extra: str) -> set[str]:
        environment = {"extra": extra, "sys_platform": "linux"}
        return {one.name for one in requirements if one.marker is None or one.marker.evaluate(environment)}

    assert names("") == {"lerobot"}
    assert names("libero") == {"lerobot", "mujoco", "h5py", "scipy", "wrapt"}
    assert names("eval") == {"lerobot", "matplotlib", "scipy", "tensorboard"}
    assert names("peft") == names("async") == {"lerobot"}
    assert names("export") == {"lerobot", "onnx", "onnxruntime", "onnxscript"}
    assert len(names("libero-assets")) == 6


def test_the_wheel_has_the_digests_of_liberos_assets(wheel_python, told):
    assert told["digests"] == 584
    assert Path(told["manifest"]).is_relative_to(wheel_python.parents[1])
