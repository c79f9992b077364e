"""The file that runs an export: its queue, its errors, and that it needs NumPy and onnxruntime only."""

import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest

from lerobot_atlasvla.export.exported_policy import ExportedPolicy
from tests.conftest import IMAGE, STATE_DIM, WRIST
from tests.export.conftest import INSTRUCTIONS, observation
from tests.helpers import ROOT

# A hook that fails every import of what an export does without.
ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lerobot", "lerobot_atlasvla", "transformers", "onnx"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def recorded(folder):
    frames = [observation(seed) for seed in range(2)]
    # One array holds images of one size.
    images = np.stack([[images[WRIST], images[WRIST]] for images, _ in frames])
    states = np.stack([state for _, state in frames])
    np.savez(folder / "recorded.npz", images=images, states=states, task=INSTRUCTIONS[1])
    return folder / "recorded.npz"


def test_it_runs_without_lerobot_and_pytorch(two_cameras, tmp_path):
    script = two_cameras.folder / "exported_policy.py"
    command = [sys.executable, "-I", "-c", ALONE, script, two_cameras.folder, "--repetitions=3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "observation.images.wrist_image" in done.stdout
    assert "ms (median of 3)" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_it_runs_in_a_fresh_environment(two_cameras, blind, tmp_path):
    """Needs a package index."""
    shutil.copytree(two_cameras.folder, tmp_path / "export")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "numpy", "onnxruntime"]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import importlib.util, sys, numpy as np; sys.path.insert(0, 'export')\n"
        "from exported_policy import ExportedPolicy\n"
        "assert not any(map(importlib.util.find_spec, ('torch', 'lerobot', 'lerobot_atlasvla')))\n"
        "given = np.load('given.npz'); images = {name: given[name] for name in given if name != 'state'}\n"
        f"np.save('action.npy', ExportedPolicy('export').select_action(images, given['state'], {INSTRUCTIONS[0]!r}))\n"
    )
    images, state = observation()
    np.savez(tmp_path / "given.npz", state=state, **images)
    subprocess.run([python, "-I", "-c", code], check=True, cwd=tmp_path)
    expected = ExportedPolicy(two_cameras.folder).select_action(images, state, INSTRUCTIONS[0])
    np.testing.assert_allclose(np.load(tmp_path / "action.npy"), expected, rtol=0, atol=1e-6)


def test_recorded_observations_of_another_size_are_refused(two_cameras, tmp_path):
    """Its cameras are of two sizes: the recorded one has the wrong one, which is said."""
    script = ROOT / "examples/exported_policy.py"
    command = [sys.executable, script, two_cameras.folder, f"--observations={recorded(tmp_path)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "observation.images.image must be RGB of shape (40, 60, 3), uint8; got uint8 of shape (32, 32, 3)" in (
        done.stderr
    )


def test_a_chunk_is_executed_before_the_next_one(two_cameras):
    policy = ExportedPolicy(two_cameras.folder)
    first, second = observation(1), observation(2)
    chunks = [policy.predict_chunk(*seen, INSTRUCTIONS[0]) for seen in (first, second)]
    taken = [policy.select_action(*seen, INSTRUCTIONS[0]) for seen in (first, *([second] * 4))]
    np.testing.assert_array_equal(taken, [*chunks[0][:4], chunks[1][0]])
    policy.reset()
    np.testing.assert_array_equal(policy.select_action(*first, INSTRUCTIONS[0]), chunks[0][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images, state: (images | {"x": images[IMAGE]}, state, INSTRUCTIONS[0]),
            r"images are of \['observation",
        ),
        (lambda images, state: ({IMAGE: images[IMAGE]}, state, INSTRUCTIONS[0]), "the policy looks through"),
        (lambda images, state: (images | {IMAGE: images[WRIST]}, state, INSTRUCTIONS[0]), "export with --image_sizes"),
        (lambda images, state: (images | {IMAGE: images[IMAGE] / 255}, state, INSTRUCTIONS[0]), "got float64 of"),
        (lambda images, state: (images, state[:3], INSTRUCTIONS[0]), "the state must be 8 finite numbers"),
        (lambda images, state: (images, None, INSTRUCTIONS[0]), "the state must be 8 finite numbers"),
        (lambda images, state: (images, state * np.nan, INSTRUCTIONS[0]), "the state must be 8 finite numbers"),
        (
            lambda images, state: (images, state, "fly"),
            r"the instruction 'fly' is not in this export, which knows \['pick",
        ),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(two_cameras, change, message):
    policy = ExportedPolicy(two_cameras.folder)
    with pytest.raises(ValueError, match=message):
        policy.select_action(*change(*observation()))


def test_an_action_that_is_not_finite_is_not_returned(blind):
    policy = ExportedPolicy(blind.folder)
    with pytest.raises(ValueError, match="an action that is not finite; none was returned"):
        policy.select_action({}, np.full(STATE_DIM, 3e38, np.float32), INSTRUCTIONS[0])


@pytest.mark.parametrize("name", ["model.onnx", "export.json"])
def test_a_damaged_folder_is_named(blind, tmp_path, name):
    folder = shutil.copytree(blind.folder, tmp_path / "copy")
    (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"{folder} holds no usable export of atlasvla-export"):
        ExportedPolicy(folder)
