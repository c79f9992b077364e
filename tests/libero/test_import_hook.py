"""Importing the plugin leaves no trace; importing LIBERO prepares it, in this process and in its workers."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.fresh_home import files_in, run_command
from tests.helpers.random_dataset import PIXELS, REPO_ID, write_dataset
from tests.helpers.small_checkpoints import save_atlasvla

IMPORTS = """
import json, multiprocessing.forkserver as forkserver, os, sys
import lerobot.configs.policies, lerobot.processor

def tell(**more):
    home, preload = os.listdir(os.environ["HOME"]), forkserver._forkserver._preload_modules
    print(json.dumps({"home": home, "preload": preload, **more}))

modules, finders = set(sys.modules), list(sys.meta_path)
import lerobot_policy_atlasvla, lerobot_atlasvla
added = {name.split(".")[0] for name in set(sys.modules) - modules}
tell(modules=sorted(added), hooks=[str(finder) for finder in sys.meta_path if finder not in finders])
from lerobot_atlasvla import modeling_atlasvla, processor_atlasvla
tell(modules=sorted(name for name in sys.modules if name.startswith("lerobot_atlasvla.libero")
    or name.split(".")[0] in ("libero", "robosuite", "mujoco", "h5py", "matplotlib", "tensorboard")))
import libero
tell()
"""


def test_the_plugin_leaves_no_trace_until_libero_is_imported(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    script = tmp_path / "imports.py"
    script.write_text(IMPORTS)
    done = run_command(home, sys.executable, script)
    assert done.returncode == 0, done.stderr
    plugin, model, libero = (json.loads(line) for line in done.stdout.splitlines())
    assert plugin["home"] == []
    assert plugin["preload"] == ["__main__"]
    assert set(plugin["modules"]) <= {"lerobot_policy_atlasvla", "lerobot_atlasvla", "wrapt"}
    assert len(plugin["hooks"]) <= 1
    assert model == {"home": [], "preload": ["__main__"], "modules": []}
    assert libero == {"home": [".libero"], "preload": ["__main__", "lerobot_atlasvla"]}


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


# The distribution's module with nothing in it: LeRobot's discovery finds this one first, and so nothing of the plugin.
HIDDEN = """
import atexit, sys
atexit.register(lambda: print("PLUGIN HIDDEN:", "lerobot_atlasvla" not in sys.modules))
"""


@pytest.mark.slow
def test_training_act_leaves_the_same_files_at_home_as_without_the_plugin(dataset_root, tmp_path):
    shim = tmp_path / "shim" / "lerobot_policy_atlasvla"
    shim.mkdir(parents=True)
    (shim / "__init__.py").write_text(HIDDEN)
    # A launcher, since a console script has no place for a path that comes before the installed one.
    launcher = tmp_path / "train.py"
    launcher.write_text(
        "import sys\nfrom lerobot.scripts.lerobot_train import main\nsys.path[:0] = [sys.argv.pop(1)]\nmain()\n"
    )
    left = {}
    for name in ("hidden", "installed"):
        home = tmp_path / "home"  # the same path twice: the datasets library has it in its file names
        home.mkdir()
        first_on_the_path = shim.parent if name == "hidden" else tmp_path / "nothing"
        done = run_command(
            home,
            sys.executable,
            launcher,
            first_on_the_path,
            "--policy.type=act",
            "--policy.device=cpu",
            "--policy.push_to_hub=false",
            "--policy.pretrained_backbone_weights=null",
            "--policy.dim_model=32",
            "--policy.chunk_size=4",
            "--policy.n_action_steps=4",
            f"--dataset.repo_id={REPO_ID}",
            f"--dataset.root={dataset_root}",
            "--steps=2",
            "--batch_size=2",
            "--num_workers=0",
            f"--output_dir={tmp_path / f'run_{name}'}",
        )
        assert done.returncode == 0, done.stderr[-6000:]
        assert ("PLUGIN HIDDEN: True" in done.stdout) is (name == "hidden")
        assert (tmp_path / f"run_{name}" / "checkpoints/last/pretrained_model/model.safetensors").is_file()
        left[name] = files_in(home)
        shutil.rmtree(home)
    assert left["installed"] == left["hidden"]


@pytest.mark.slow
def test_lerobot_eval_with_asynchronous_environments_asks_nothing(dataset_root, tmp_path):
    """In a fresh home and without a terminal; the workers find the same assets as the process that starts them."""
    home = tmp_path / "home"
    home.mkdir()
    done = run_command(
        home,
        Path(sys.executable).with_name("lerobot-eval"),
        f"--policy.path={save_atlasvla(tmp_path / 'checkpoint')}",
        "--policy.device=cpu",
        "--env.type=libero",
        "--env.task=libero_spatial",
        "--env.task_ids=[0]",
        "--env.episode_length=3",
        f"--env.observation_height={PIXELS}",
        f"--env.observation_width={PIXELS}",
        '--env.camera_name_mapping={"agentview_image":"image","robot0_eye_in_hand_image":"wrist_image"}',
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=true",
        f"--output_dir={tmp_path / 'eval'}",
        ATLASVLA_LIBERO_ASSETS="stand-in",
        ATLASVLA_LIBERO_RENDER_QUALITY="plain",
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert json.loads((tmp_path / "eval/eval_info.json").read_text())["overall"]["n_episodes"] == 2
    assert done.stderr.count("STAND-IN SCENE") == 1
    assert (home / ".libero" / "config.yaml").is_file()
