"""``python -m eval.plus``; the code is in ``eval/robustness/libero_plus/command.py``."""

import sys

from eval.robustness.libero_plus.command import main

if __name__ == "__main__":
    sys.exit(main())
