"""``python -m eval.robustness``; the code is in ``eval/robustness/controls/command.py``."""

import sys

from eval.robustness.controls.command import main

if __name__ == "__main__":
    sys.exit(main())
