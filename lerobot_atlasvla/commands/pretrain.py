"""``atlasvla-pretrain``: train a small geometry backbone on simulated views with depth and known cameras."""

import logging
import sys

from lerobot.utils.utils import init_logging

from lerobot_atlasvla.pretraining.settings import PretrainConfig, PretrainError
from lerobot_atlasvla.pretraining.trainer import pretrain
from lerobot_atlasvla.utils.cli import AGAIN, run_command

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when the backbone is there, else as :func:`.exit_status`."""
    init_logging()

    def body(config: PretrainConfig) -> None:
        errors = pretrain(config)
        lines = [f"{name:>28} {value:8.2f}" for name, value in errors.items()]
        sys.stdout.write("\n".join(["medians on held-out states:", *lines, f"backbone: {config.output_dir}"]) + "\n")

    return run_command("atlasvla-pretrain", PretrainConfig, body, argv, errors=PretrainError, again=AGAIN)


if __name__ == "__main__":
    sys.exit(main())
