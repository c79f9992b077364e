"""``python -m eval.demo``; the code is in ``eval/demo/command.py``."""

import sys

from eval.demo.command import main

if __name__ == "__main__":
    sys.exit(main())
