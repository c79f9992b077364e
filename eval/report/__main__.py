"""``python -m eval.report``; the code is in ``eval/report/command.py``."""

import sys

from eval.report.command import main

if __name__ == "__main__":
    sys.exit(main())
