"""``python -m lerobot_atlasvla.policy_server --checkpoint=...``: serve a policy to robots (see ``serving``)."""

import logging
import sys

from lerobot_atlasvla.serving.settings import ServerConfig, ServingError
from lerobot_atlasvla.utils.paths import expand_home


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 1 for an error that the message explains, 2 for a flag that does not parse, 130 when interrupted.
    """
    import draccus
    from draccus.utils import ParsingError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("lerobot_atlasvla").setLevel(logging.INFO)
    try:
        config = expand_home(draccus.parse(ServerConfig, args=argv))
    except (ParsingError, OSError) as error:
        sys.stderr.write(f"policy_server: {error} (see --help)\n")
        return 2
    try:
        config.validate()
        _serve(config)
    except ServingError as error:
        sys.stderr.write(f"policy_server: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(config: ServerConfig) -> None:
    try:
        import grpc  # noqa: F401 - only to say what is missing
    except ImportError as error:
        raise ServingError(f"gRPC is missing ({error}). Run:  pip install 'lerobot_policy_atlasvla[async]'") from error
    # Imports LeRobot's policies, which takes seconds: after the flags were found to be right.
    from lerobot_atlasvla.serving.server import serve

    serve(config)
