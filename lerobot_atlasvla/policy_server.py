"""``python -m lerobot_atlasvla.policy_server --checkpoint=...``: serve a policy to robots (see ``serving``)."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; arguments and exit status as in :func:`.serving.server.main`.

    Raises:
        SystemExit: If gRPC is not installed.
    """
    try:
        import grpc  # noqa: F401 - only to say what is missing
    except ImportError as error:
        raise SystemExit(f"The policy server needs gRPC ({error}). Run:  pip install 'lerobot[async]'") from error
    from .serving import server

    return server.main(argv)


if __name__ == "__main__":
    sys.exit(main())
