"""``python -m eval.keep_checkpoint``; the code is in ``eval/offline/keep_checkpoint.py``."""

import sys

from eval.offline.keep_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
