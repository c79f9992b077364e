"""``python -m eval.camera_shift``; the code is in ``eval/robustness/camera_shift/command.py``."""

import sys

from eval.robustness.camera_shift.command import main

if __name__ == "__main__":
    sys.exit(main())
