"""The watch over a process's own memory sees what was there only for a while, and no mapped files.

In fresh processes: what earlier tests left behind may be freed at any moment.
"""

import json
import subprocess
import sys

from eval.common.commands import GIB
from tests.helpers import ROOT

SIZE = 2**28
HEAD = f"""
import json, sys
import numpy as np
from eval.benchmark.private_memory import PrivateMemoryWatch
SIZE = {SIZE}
with PrivateMemoryWatch() as memory:
"""
TAIL = """
print(json.dumps([memory.before_gib, memory.peak_gib, memory.after_gib]))
"""


def watched(body: str, *arguments: str) -> tuple[float, float]:
    """How far the peak and the end are above the start, GiB."""
    lines = "\n".join(f"    {line.strip()}" for line in body.strip().splitlines())
    command = [sys.executable, "-c", HEAD + lines + TAIL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    before, peak, after = json.loads(done.stdout)
    return peak - before, after - before


def test_a_peak_in_between_is_seen():
    peak, end = watched("""
        block = np.ones(SIZE, dtype=np.uint8)
        for _ in range(3): block += 1
        del block
    """)
    assert peak > 0.9 * SIZE / GIB
    assert end < 0.1 * SIZE / GIB


def test_what_stays_is_seen_and_a_mapped_file_is_not(tmp_path):
    file = tmp_path / "mapped"
    file.write_bytes(bytes(SIZE))
    _, end = watched(
        """
        kept = np.ones(SIZE, dtype=np.uint8)
        mapped = np.memmap(sys.argv[1], dtype=np.uint8, mode="r")
        assert mapped.sum() == 0
        assert kept.sum() == SIZE
        """,
        str(file),
    )
    assert 0.9 * SIZE / GIB < end < 1.2 * SIZE / GIB
