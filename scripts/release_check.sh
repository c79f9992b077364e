#!/usr/bin/env bash
# The built wheel installs in a fresh virtual environment, without extras and with each extra alone, imports, and is
# discovered by LeRobot. Needs the network and several GB of disk, so it is not among the tests.
#   scripts/release_check.sh                # no extra, then each extra
#   scripts/release_check.sh none libero    # these only
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What only the extra brings; for the others, that they install is the check.
declare -A BRINGS=([libero]="libero mujoco" [peft]="peft" [async]="grpc" [export]="onnx onnxscript onnxruntime")

"$python" -m build --wheel --outdir "$scratch" . >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log"; exit 1; }
wheel=$(ls "$scratch"/*.whl)
extras=$("$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])')

check() {  # check EXTRA: install the wheel with it (or "none") in an environment of its own, outside of the repository.
  local extra=$1 requirement="$wheel"
  [ "$extra" = none ] || requirement="$wheel[$extra]"
  "$python" -m venv "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install -q -c constraints.txt "$requirement"
  (
    cd "$scratch"
    mkdir -p home
    export HOME="$scratch/home"
    venv/bin/python -I - ${BRINGS[$extra]:-} <<'PYTHON'
import importlib.util
import sys

from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

register_third_party_plugins()
assert PreTrainedConfig.get_choice_class("atlasvla").__name__ == "AtlasVLAConfig", "LeRobot does not discover the policy"
from lerobot_atlasvla import AtlasVLAPolicy  # the network and what it needs

assert AtlasVLAPolicy.name == "atlasvla"
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
assert not missing, f"the extra does not bring {missing}"
PYTHON
    venv/bin/lerobot-train --policy.type=atlasvla --help </dev/null | grep -q -- --policy.vggt_model
  )
  rm -rf "$scratch/venv" "$scratch/home"
  echo "release_check: $(basename "$wheel") with ${extra}: ok"
}

# shellcheck disable=SC2086 (names of extras)
for extra in "${@:-none}" $([ $# -gt 0 ] || echo $extras); do check "$extra"; done
