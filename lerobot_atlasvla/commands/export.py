"""``atlasvla-export``: write a policy as one file that runs without LeRobot and PyTorch (see ``export``)."""

import shlex
import sys

from lerobot_atlasvla.export.settings import ExportConfig, ExportError
from lerobot_atlasvla.policy.checks.config import ConfigError
from lerobot_atlasvla.policy.pipelines.files import PipelineError
from lerobot_atlasvla.utils.cli import log_to_terminal, run_command
from lerobot_atlasvla.utils.extras import MissingExtraError, require
from lerobot_atlasvla.weights.download import WeightsError

NAME = "atlasvla-export"


def main(argv: list[str] | None = None) -> int:
    """Write an export; the exit status is that of :func:`.exit_status`."""
    log_to_terminal("lerobot_atlasvla.export")
    errors = (ExportError, WeightsError, PipelineError, ConfigError, MissingExtraError, OSError)
    return run_command(NAME, ExportConfig, _export, argv, errors=errors, again="")


def _export(settings: ExportConfig) -> None:
    settings.validate()
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export", NAME)
    # Imports the network and LeRobot's pipelines, which takes seconds: after the flags were found to be right.
    from lerobot_atlasvla.export.exporter import export

    export(settings)
    command = shlex.join(["python", f"{settings.output_dir}/exported_policy.py", str(settings.output_dir)])
    sys.stdout.write(f"{NAME}: {settings.output_dir} is ready: {command}\n")


if __name__ == "__main__":
    sys.exit(main())
