#!/usr/bin/env bash
# Makes .venv: finds a Python >= 3.12 that really runs, gets uv, installs the pinned packages and the GL libraries.
# Run again at any time; it does nothing when nothing changed.
#   PYTHON=/path/to/python3.12 scripts/setup.sh      to choose the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: error: $*" >&2; exit 1; }

APT_GL=(libosmesa6 libegl1 libgl1-mesa-dri libgles2)

# Runs a candidate instead of trusting its name: a pyenv shim exists for versions that are not selected, and a Python
# may have been built without ssl or sqlite3.
works() {
  [ -n "$1" ] && "$1" -c 'import ctypes, lzma, sqlite3, ssl, sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))' \
    >/dev/null 2>&1
}

find_python() {
  local root candidate
  for root in "${PYENV_ROOT:-$HOME/.pyenv}" "$HOME/.local/share/uv/python"; do
    pyenv_pythons+=("$root"/versions/3.12*/bin/python3.12 "$root"/cpython-3.12*/bin/python3.12 "$root"/versions/3.13*/bin/python3.13)
  done
  for candidate in "${PYTHON:-}" python3.12 /usr/bin/python3.12 /usr/local/bin/python3.12 python3 python3.13 \
    /usr/bin/python3.13 "${pyenv_pythons[@]}"; do
    if works "$candidate"; then command -v "$candidate"; return 0; fi
  done
  return 1
}

as_root() {  # Runs a command as root if that needs no password.
  if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo "$@"; else return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_apt() {  # need_apt WHAT PACKAGE...: install, or print the one command and stop.
  local what=$1
  shift
  say "installing $what: $*"
  apt_install "$@" || die "$what missing. Run:  sudo apt-get update && sudo apt-get install -y $*"
}

# 1. Python.
pyenv_pythons=()
if [ -n "${PYTHON:-}" ] && ! works "$PYTHON"; then die "PYTHON=$PYTHON does not run or is not 3.12 or 3.13."; fi
if works .venv/bin/python; then
  python=$(readlink -f .venv/bin/python)
elif ! python=$(find_python); then
  say "no working Python 3.12 or 3.13 found; trying the system's packages, then uv"
  if apt_install python3.12 python3.12-venv || apt_install python3.13 python3.13-venv; then
    python=$(find_python) || die "the installed Python does not run."
  elif command -v uv >/dev/null && uv python install 3.12; then
    python=$(uv python find 3.12)
  else
    die "no Python 3.12 or 3.13. Install one and run again with PYTHON=/path/to/python3.12."
  fi
fi

# 2. The virtual environment and uv (by pip, inside the environment, when the machine has none).
if ! works .venv/bin/python; then
  say "Python: $python ($("$python" --version 2>&1))"
  rm -rf .venv
  "$python" -m venv .venv || { need_apt "Python's venv module" python3-venv; "$python" -m venv .venv; }
fi
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
  uv=(uv)
else
  .venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install -q uv
  uv=(.venv/bin/python -m uv)
fi

# 3. What the packages need from the system: GL for MuJoCo's off-screen rendering, a compiler for hf-egl-probe.
gl_loads() { .venv/bin/python -c "import ctypes, sys; ctypes.CDLL('$1')" >/dev/null 2>&1; }
gl_loads libOSMesa.so.8 || gl_loads libOSMesa.so || gl_loads libEGL.so.1 || need_apt "software GL" "${APT_GL[@]}"
if ! command -v g++ >/dev/null || ! command -v make >/dev/null; then need_apt "a C++ compiler" g++ make; fi

# LeRobot's video decoder wants FFmpeg's libraries and prints a long trace without them; it then falls back to PyAV.
command -v ffmpeg >/dev/null || { say "installing ffmpeg"; apt_install ffmpeg; } ||
  say "optional, for LeRobot's video decoder:  sudo apt-get install -y ffmpeg"

# 4. The packages.
stamp=.venv/.atlasvla-installed
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "installing packages into .venv (several GB with PyTorch and LIBERO's assets, the first time)"
  "${uv[@]}" pip install -q --python .venv/bin/python -c constraints.txt --group dev -e '.[libero,libero-assets,eval,peft,async,export]'
  printf '%s' "$wanted" >"$stamp"
fi
say "ready: $(.venv/bin/python --version), lerobot $(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("lerobot"))')"
