"""A robot that only pretends: always calibrated, and it writes down what it was told to do."""

import json
from pathlib import Path

from lerobot.robots import Robot


class PretendedRobot(Robot):
    """What the robots of the tests share; their configurations have the file ``log``."""

    def __init__(self, config):
        super().__init__(config)
        self.log: Path = config.log
        self.received: list = []
        self._connected = False

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def disconnect(self) -> None:
        self._connected = False
        self.log.write_text(json.dumps(self.received))
