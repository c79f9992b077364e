"""``python -m lerobot_atlasvla.policy_server --checkpoint=...``: see :mod:`.commands.serve`."""

import sys

from .commands.serve import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
