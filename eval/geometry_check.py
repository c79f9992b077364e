"""``python -m eval.geometry_check``; the code is in ``eval/offline/geometry_check.py``."""

import sys

from eval.offline.geometry_check import main

if __name__ == "__main__":
    sys.exit(main())
