"""LeRobot's policy server for robots whose policy runs on another machine, open to AtlasVLA.

``python -m lerobot_atlasvla.policy_server --host=127.0.0.1 --port=8080``: flags as of ``lerobot.async_inference``,
whose own server knows a fixed list of policies only and never imports plugins. The robot's side is LeRobot's robot
client.
"""

from lerobot_atlasvla import AtlasVLAConfig


def main() -> None:
    """Serve until interrupted.

    Raises:
        SystemExit: If the packages that the server speaks through are not installed.
    """
    try:
        from lerobot.async_inference import constants, policy_server
    except ImportError as error:
        raise SystemExit(f"The policy server needs gRPC ({error}). Run:  pip install 'lerobot[async]'") from error
    name = AtlasVLAConfig.get_choice_name(AtlasVLAConfig)
    if name not in constants.SUPPORTED_POLICIES:
        constants.SUPPORTED_POLICIES.append(name)
    policy_server.serve()


if __name__ == "__main__":
    main()
