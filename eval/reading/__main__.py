"""``python -m eval.reading``; the code is in ``eval/reading/command.py``."""

import sys

from eval.reading.command import main

if __name__ == "__main__":
    sys.exit(main())
