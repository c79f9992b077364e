"""Training curves without an account: the scalars that LeRobot logs also go to TensorBoard files in the run folder.

LeRobot 0.6 offers loggers no hook and knows no TensorBoard, but it hands its metrics as objects to Python's root
logger. A filter there sees every record, keeps all of them, and writes down the numbers;
``tensorboard --logdir=outputs/train`` shows them.
"""

import logging
import re
from pathlib import Path
from typing import Any

from lerobot.utils.logging_utils import MetricsTracker

from lerobot_atlasvla.utils.extras import MissingExtraError, require

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
_COUNTERS = ("steps", "samples", "episodes", "epochs")
_ANSI_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OUTPUT = re.compile(r"^Output dir:\s*(.+)$")
_HELD_OUT = re.compile(r"^step (\d+): eval_loss=(\S+)$")
_STEP = re.compile(r"^Eval policy at step (\d+)$")
_SUITE = "Suite %s aggregated: %s"


class TrainingCurves(logging.Filter):
    """Writes what ``lerobot-train`` logs: training scalars, held-out loss, success rates during training."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._writer: Any = None
        self._step = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Write the metrics of a log record to TensorBoard, and let every record pass."""
        try:
            self._note(record)
        except (OSError, MissingExtraError) as error:
            # Neither a full disk nor a missing package must end a training run over its curves.
            self._folder = None
            logger.warning("No more TensorBoard curves: %s", error)
        return True

    def _note(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, MetricsTracker):
            values = record.msg.to_dict()
            self._step = int(values["steps"])
            self._write({f"train/{k}": v for k, v in values.items() if k not in _COUNTERS})
        elif record.msg == _SUITE and isinstance(record.args, tuple):
            suite, result = record.args
            if isinstance(result, dict) and "pc_success" in result:
                self._write({f"rollout/{suite}_success_percent": result["pc_success"]})
        elif isinstance(record.msg, str):
            text = _ANSI_COLOR.sub("", record.msg)
            if match := _OUTPUT.match(text):
                self.close()
                self._folder = Path(match[1]) / FOLDER
            elif match := _HELD_OUT.match(text):
                self._step = int(match[1])
                self._write({"eval/loss": float(match[2])})
            elif match := _STEP.match(text):
                self._step = int(match[1])
            elif text == "End of training":
                self.close()

    def _write(self, values: dict[str, float]) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            require("tensorboard", "eval", "A TensorBoard file of the training curves")
            # Only now: this import costs a second, and evaluation never needs it.
            from torch.utils.tensorboard import SummaryWriter

            # A resumed run goes on in the same folder and drops what was written after its checkpoint.
            self._writer = SummaryWriter(str(self._folder), purge_step=self._step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; a later training run in the same process opens its own."""
        if self._writer is not None:
            self._writer.close()
        self._folder = self._writer = None


def install() -> None:
    """Put the filter on the root logger, once."""
    root = logging.getLogger()
    if not any(isinstance(existing, TrainingCurves) for existing in root.filters):
        root.addFilter(TrainingCurves())
