"""Tell what moves results besides the settings: the commit, the versions of packages, the machine."""

import importlib.metadata
import os
import sys
from pathlib import Path

from eval.common.commands import GIB
from lerobot_atlasvla.utils.commit import git_commit


def versions() -> dict[str, str]:
    """Return the versions that move results."""
    names = ("lerobot_policy_atlasvla", "lerobot", "torch", "transformers", "numpy")
    return {"commit": git_commit(), "python": sys.version.split()[0]} | {
        n: importlib.metadata.version(n) for n in names
    }


def machine() -> dict[str, str]:
    """Return processor, cores and memory (Linux)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    return {"processor": models[0] if models else "unknown", "cores": str(cores), "memory": f"{memory:.1f} GiB"}
