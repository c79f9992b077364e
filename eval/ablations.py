"""``python -m eval.ablations``; the code is in ``eval/report/ablations.py``."""

import sys

from eval.report.ablations import main

if __name__ == "__main__":
    sys.exit(main())
