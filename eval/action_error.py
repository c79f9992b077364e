"""``python -m eval.action_error``; the code is in ``eval/offline/action_error.py``."""

import sys

from eval.offline.action_error import main

if __name__ == "__main__":
    sys.exit(main())
