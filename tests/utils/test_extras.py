"""Without the extras the policy works, and whatever needs one says so in one sentence."""

import json
import subprocess
import sys

import pytest

from lerobot_atlasvla.utils import extras
from lerobot_atlasvla.utils.extras import MissingExtraError, require

# An entry of None makes an import fail as if the package were not installed.
WITHOUT_EXTRAS = """
import json, logging, sys
sys.modules.update(dict.fromkeys(
    ["h5py", "matplotlib", "scipy", "tensorboard", "wrapt", "mujoco", "robosuite", "libero", "peft", "grpc", "onnx"]
))
import torch
from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.training import tensorboard
from tests.conftest import dataset_stats, raw_batch, tiny_config

policy = AtlasVLAPolicy(tiny_config())
before, _ = make_atlasvla_pre_post_processors(policy.config, dataset_stats())
loss, _ = policy(before(raw_batch()))
told = {"loss": bool(torch.isfinite(loss)), "hooks": [type(f).__name__ for f in sys.meta_path]}

def said(main, *arguments):
    from contextlib import redirect_stderr
    from io import StringIO
    with redirect_stderr(StringIO()) as text:
        try:
            main(*arguments)
        except SystemExit as stop:
            text.write(str(stop))
    return text.getvalue().strip()

from lerobot_atlasvla.libero.demonstrations import collect, convert
told["collect"] = said(collect.main, [f"--root={sys.argv[1]}/a"])
told["convert"] = said(convert.main, [f"--root={sys.argv[1]}/a", f"--folder={sys.argv[1]}"])
told["eval"] = said(__import__, "eval")
from lerobot_atlasvla.commands import export
kept = "checkpoints/atlasvla_tiny_spatial_blind"
told["export"] = said(export.main, [f"--checkpoint={kept}", f"--output_dir={sys.argv[1]}/b"])

curves = tensorboard.TrainingCurves()
for text in (f"Output dir: {sys.argv[1]}", "step 1: eval_loss=0.5", "step 2: eval_loss=0.5"):
    assert curves.filter(logging.LogRecord("", logging.INFO, "", 0, text, None, None))
print(json.dumps(told))
"""


def test_without_extras_the_policy_works_and_commands_name_what_they_need(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["loss"]
    assert "ImportHookFinder" not in told["hooks"]
    missing = "which is not installed. Run `pip install 'lerobot_policy_atlasvla[libero]'`."
    assert told["collect"] == f"atlasvla-collect: The LIBERO simulator (Linux only) needs libero, {missing}"
    assert told["convert"] == f"atlasvla-convert: Reading LIBERO's demonstrations needs h5py, {missing}"
    needed = "atlasvla-export needs onnx, which is not installed. Run `pip install 'lerobot_policy_atlasvla[export]'`"
    assert told["export"] == f"atlasvla-export: {needed}"
    run = "Run `pip install 'lerobot_policy_atlasvla[eval]'`."
    assert told["eval"] == f"eval needs matplotlib, scipy, tensorboard. {run}"
    assert "A TensorBoard file of the training curves needs tensorboard" in done.stderr
    assert done.stderr.count("needs tensorboard") == 1, "said once, not at every step"
    assert not list(tmp_path.iterdir())


def test_what_is_installed_is_not_asked_for(monkeypatch):
    require("torch", "libero", "Something")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"Something needs torch, .*lerobot_policy_atlasvla\[libero\]"
    ) as raised:
        require("torch", "libero", "Something")
    assert raised.value.name == "torch"
