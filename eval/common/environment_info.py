"""What moves results besides the settings: the commit and the versions of packages."""

import importlib.metadata
import subprocess
import sys


def git_commit() -> str:
    """Commit of the working tree, with a mark if it has changes."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"


def versions() -> dict[str, str]:
    """Versions that move results."""
    names = ("lerobot_policy_atlasvla", "lerobot", "torch", "transformers", "numpy")
    return {"commit": git_commit(), "python": sys.version.split()[0]} | {
        n: importlib.metadata.version(n) for n in names
    }
