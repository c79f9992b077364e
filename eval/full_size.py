"""``python -m eval.full_size``; the code is in ``eval/benchmark/full_size/command.py``."""

import sys

from eval.benchmark.full_size.command import main

if __name__ == "__main__":
    sys.exit(main())
