"""``python -m eval.geometry_view``; the code is in ``eval/offline/geometry_view.py``."""

import sys

from eval.offline.geometry_view import main

if __name__ == "__main__":
    sys.exit(main())
