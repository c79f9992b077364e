"""Find out which commit of this repository is running."""

import subprocess
from pathlib import Path

_CLONE = Path(__file__).resolve().parents[2]


def git_commit() -> str:
    """Return the commit of the clone that this package is in, with a mark if it has changes."""
    if not (_CLONE / ".git").exists():
        return "unknown (not a git checkout)"
    try:
        return subprocess.run(
            ["git", "-C", str(_CLONE), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
