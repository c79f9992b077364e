"""The watch over a process's own memory sees what was there only for a while, and no mapped files."""

import numpy as np

from eval.private_memory import PrivateMemoryWatch
from eval.stage import GIB

SIZE = 2**28


def test_a_peak_in_between_is_seen():
    with PrivateMemoryWatch() as memory:
        block = np.ones(SIZE, dtype=np.uint8)
        for _ in range(3):
            block += 1
        del block
    assert memory.peak_gib - memory.before_gib > 0.9 * SIZE / GIB
    assert memory.after_gib - memory.before_gib < 0.1 * SIZE / GIB


def test_what_stays_is_seen_and_a_mapped_file_is_not(tmp_path):
    file = tmp_path / "mapped"
    file.write_bytes(bytes(SIZE))
    with PrivateMemoryWatch() as memory:
        kept = np.ones(SIZE, dtype=np.uint8)
        mapped = np.memmap(file, dtype=np.uint8, mode="r")
        assert mapped.sum() == 0
        assert kept.sum() == SIZE
    assert 0.9 * SIZE / GIB < memory.after_gib - memory.before_gib < 1.2 * SIZE / GIB
