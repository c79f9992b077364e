"""``python -m eval.run``; the code is in ``eval/rollout/run.py``."""

import sys

from eval.rollout.run import main

if __name__ == "__main__":
    sys.exit(main())
