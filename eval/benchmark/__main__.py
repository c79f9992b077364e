"""``python -m eval.benchmark``; the code is in ``eval/benchmark/command.py``."""

import sys

from eval.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
