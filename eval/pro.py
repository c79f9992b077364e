"""``python -m eval.pro``; the code is in ``eval/robustness/libero_pro/command.py``."""

import sys

from eval.robustness.libero_pro.command import main

if __name__ == "__main__":
    sys.exit(main())
