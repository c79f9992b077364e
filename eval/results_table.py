"""``python -m eval.results_table``; the code is in ``eval/report/results_table.py``."""

import sys

from eval.report.results_table import main

if __name__ == "__main__":
    sys.exit(main())
