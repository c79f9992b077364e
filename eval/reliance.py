"""``python -m eval.reliance``; the code is in ``eval/offline/reliance.py``."""

import sys

from eval.offline.reliance import main

if __name__ == "__main__":
    sys.exit(main())
