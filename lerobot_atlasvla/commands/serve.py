"""``python -m lerobot_atlasvla.policy_server --checkpoint=...``: serve a policy to robots (see ``serving``)."""

from lerobot_atlasvla.serving.settings import ServerConfig, ServingError
from lerobot_atlasvla.utils.cli import log_to_terminal, run_command


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; the exit status is that of :func:`.exit_status`."""
    log_to_terminal("lerobot_atlasvla")
    return run_command("policy_server", ServerConfig, _serve, argv, errors=ServingError, again="")


def _serve(config: ServerConfig) -> None:
    config.validate()
    try:
        import grpc  # noqa: F401 - only to say what is missing
    except ImportError as error:
        raise ServingError(f"gRPC is missing ({error}). Run:  pip install 'lerobot_policy_atlasvla[async]'") from error
    # Imports LeRobot's policies, which takes seconds: after the flags were found to be right.
    from lerobot_atlasvla.serving.server import serve

    serve(config)
