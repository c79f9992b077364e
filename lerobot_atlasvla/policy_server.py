"""``python -m lerobot_atlasvla.policy_server``: see :mod:`.commands.serve`."""

from .commands.serve import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
