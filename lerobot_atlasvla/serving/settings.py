"""Flags of the policy server, and what is refused before a checkpoint is read."""

import ipaddress
import os
from dataclasses import dataclass, field

from lerobot_atlasvla.utils.setting_checks import check_in_range

TOKEN_VARIABLE = "ATLASVLA_SERVER_TOKEN"


class ServingError(Exception):
    """The server can't start or go on; the message says why and what to change."""


@dataclass
class ServerConfig:
    """Settings of ``python -m lerobot_atlasvla.policy_server``."""

    # Folder of the AtlasVLA checkpoint to serve (.../pretrained_model, or the checkpoint or training run that has it
    # inside), or its Hub id. Clients can't ask for another one.
    checkpoint: str
    # Where the policy computes, for example cuda or cpu. As the checkpoint says if not given.
    device: str | None = None
    # Address to listen on. Any other than this machine's own (127.0.0.1, ::1, localhost) needs --token.
    host: str = "127.0.0.1"
    # Port to listen on; 0 picks a free one and logs it.
    port: int = 8080
    # Secret that clients must present. Other users of this machine can read flags in the list of processes; the
    # environment variable ATLASVLA_SERVER_TOKEN is the alternative.
    token: str | None = field(default_factory=lambda: os.environ.get(TOKEN_VARIABLE))
    # Clients served at the same time.
    max_sessions: int = 32
    # Seconds without a request after which a session is forgotten. PolicyClient.reset() starts a new one then.
    session_idle_s: float = 60.0
    # Largest request, MiB. Two full-HD images have 12.
    max_message_mb: int = 16
    # Seconds that a request may take, its upload and its wait for the policy included.
    request_timeout_s: float = 30.0
    # Also serve LeRobot's own robot client (lerobot.async_inference.robot_client). On this machine's own address only:
    # that client sends pickles and can't present a token. Reach it from elsewhere through an SSH tunnel.
    stock_client: bool = False
    # Control rate of robots behind LeRobot's own client, Hz; it spaces the time stamps of their actions.
    fps: int = 30

    @property
    def is_loopback(self) -> bool:
        """Say whether only programs on this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """Return host and port as gRPC writes them."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def max_message_bytes(self) -> int:
        """Return the size of the largest request, bytes."""
        return self.max_message_mb * 2**20

    def validate(self) -> None:
        """Raise :class:`ServingError` for the first setting that can't work; reads nothing."""
        if not self.checkpoint:
            raise ServingError("--checkpoint= is empty; it must name a folder or a Hub id.")
        if not self.host or any(character in self.host for character in "/% "):
            raise ServingError(f"--host={self.host!r} is not an address, such as 127.0.0.1 or 0.0.0.0.")
        check_in_range(ServingError, self, port=(0, 65535), max_message_mb=(1, 1024))
        for name in ("max_sessions", "session_idle_s", "request_timeout_s", "fps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ServingError(f"--{name}={getattr(self, name)} must be positive.")
        self._check_who_may_connect()

    def _check_who_may_connect(self) -> None:
        # A file of settings (--config_path) has 0123 and 0x1F as numbers, which are another token then.
        if self.token is not None and not (
            any(character.isalpha() for character in self.token)
            and all("!" <= character <= "~" for character in self.token)
        ):
            raise ServingError(
                "--token must have at least one letter and only visible ASCII characters, no spaces; make one with: "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if not self.is_loopback and self.stock_client:
            raise ServingError(
                f"--stock_client=true with --host={self.host}: LeRobot's own client sends pickles and no token, so it "
                "is served on 127.0.0.1 only. From another machine, tunnel to it: "
                f"ssh -L {self.port}:127.0.0.1:{self.port} USER@SERVER"
            )
        if self.token is not None and self.stock_client:
            raise ServingError(
                f"--stock_client=true with --token (or {TOKEN_VARIABLE}): LeRobot's own client can't present a token. "
                "Leave one of the two out."
            )
        if not self.is_loopback and self.token is None:
            raise ServingError(
                f"--host={self.host} lets other machines connect and needs --token=SECRET (or {TOKEN_VARIABLE}); make "
                "one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
