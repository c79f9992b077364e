"""``atlasvla-check``: is this machine ready to train with a preset? One line per check, a failed one with its fix."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot_atlasvla.utils.cli import UsageError, exit_status

from . import doctor_machine, doctor_preset
from .doctor_machine import CheckFailedError
from .doctor_preset import Trial

if TYPE_CHECKING:
    from lerobot.configs.train import TrainPipelineConfig

USAGE = """\
atlasvla-check [--config_path=PRESET.yaml] [any flag of lerobot-train]

Says what this machine still lacks for training with a preset (configs/policy/*.yaml; without one: the policy's
defaults) and flags such as --policy.vggt_model=FOLDER or --dataset.repo_id=NAME --dataset.root=FOLDER.
What is not here yet but on the Hub (pretrained weights, LIBERO's assets, the dataset's description) is downloaded, as
training and evaluation would do.
Exit status: 0 ready, 1 not ready, 2 a flag or value that can't work.

The flags of lerobot-train:
"""
PART_TITLES = {
    "vggt": "VGGT weights",
    "da3": "DA3 weights",
    "language": "language weights",
    "vision_tower": "vision tower weights",
}


@dataclass
class Checklist:
    """Runs checks one after the other and reports each as soon as its outcome is known.

    Attributes:
        report: Takes the line of each check.
        passed: Whether each check so far passed, by its name, in the order they ran.
    """

    report: Callable[[str], None]
    passed: dict[str, bool] = field(default_factory=dict)

    def run(self, what: str, check: Callable[[], str], needs: Sequence[str] = ()) -> bool:
        """Run one check, unless one it needs has failed.

        Args:
            what: Its name.
            check: Returns what it found, or raises; whatever it raises becomes a line.
            needs: Names of the checks without which this one makes no sense.

        Returns:
            Whether it passed.
        """
        lacking = next((name for name, passed in self.passed.items() if name in needs and not passed), None)
        self.passed[what] = False
        try:
            if lacking:
                raise CheckFailedError(f"skipped: needs {lacking}")
            text = check()
            self.passed[what] = True
        except CheckFailedError as failure:
            text = str(failure)
        except Exception as error:  # noqa: BLE001 - a broken machine breaks in any way, and each must become a line
            text = str(doctor_machine.explain(error))
        # Messages of other people's code may have several lines.
        self.report(" ".join(f"{'✓' if self.passed[what] else '✗'} {what}: {text}".split()))
        return self.passed[what]

    @property
    def verdict(self) -> str:
        """Return the last line: ``ready``, or how many checks failed."""
        failed = list(self.passed.values()).count(False)
        return f"not ready: {failed} of {len(self.passed)} checks failed" if failed else "ready"


def read_settings(arguments: Sequence[str]) -> Trial:
    """Parse the flags exactly as ``lerobot-train`` does, except that preset and dataset may be left out.

    Raises:
        UsageError: For flags, values or a file that can't work.
    """
    import draccus
    import yaml
    from lerobot.configs import parser

    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

    if checkpoint := parser.parse_arg("policy.path", arguments):
        raise UsageError(
            f"--policy.path={checkpoint} is a checkpoint, which lerobot-train itself checks against the dataset before "
            "its first step; atlasvla-check is for presets (--config_path) and their flags"
        )
    path = parser.parse_arg("config_path", arguments)
    path = str(Path(path).expanduser()) if path else path
    if path and not Path(path).is_file():
        raise UsageError(f"--config_path={path} is no file; the presets are configs/policy/*.yaml of the repository")
    flags = parser.filter_arg("config_path", arguments)
    if not path and not parser.get_type_arg("policy", flags):
        flags.append("--policy.type=atlasvla")  # there is only one, so nobody should have to name it
    try:
        with draccus.config_type("json"):  # as LeRobot reads its train configurations, YAML included
            config = draccus.parse(_settings_class(), path, args=flags, exit_on_error=False)
    except Exception as error:  # settings classes raise what they like, and draccus hands it on
        # draccus keeps the reason for a value that a settings class refuses to itself.
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise UsageError(" ".join(f"{error}{cause}".split())) from error
    if not isinstance(config.policy, AtlasVLAConfig):
        name = config.policy.type if config.policy else "no policy"
        raise UsageError(f"--config_path={path} is for {name}, and atlasvla-check knows policy.type=atlasvla only")
    # LeRobot replaces a device that is not there without keeping which one was asked for.
    device = parser.parse_arg("policy.device", arguments)
    if path and not device:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        device = (content.get("policy") or {}).get("device")
    if config.dataset.root:
        config.dataset.root = str(Path(config.dataset.root).expanduser())
    return Trial(config.policy, config.dataset, device, tolerance_s=config.tolerance_s)


def _settings_class() -> "type[TrainPipelineConfig]":
    """Return LeRobot's train settings with defaults for preset and dataset; a function, for LeRobot imports slowly."""
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.train import TrainPipelineConfig

    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

    @dataclass
    class CheckConfig(TrainPipelineConfig):
        dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(repo_id=""))
        # Not optional as in LeRobot: draccus buries the one line about a wrong value under the alternatives.
        policy: PreTrainedConfig = field(  # pyrefly: ignore[bad-override-mutable-attribute]
            default_factory=AtlasVLAConfig
        )

    return CheckConfig


def check_all(checklist: Checklist, arguments: Sequence[str]) -> None:
    """Run all checks, the quick ones first; none after the plugin's makes sense without it.

    Raises:
        UsageError: For flags that can't work; the checks that need no settings have then been run.
    """
    run = checklist.run
    run("Python", doctor_machine.check_python)
    for name, requirement in doctor_machine.requirements().items():
        run(name, partial(doctor_machine.check_package, requirement))
    if not run("plugin", doctor_machine.check_plugin, needs=["Python", "lerobot", "torch"]):
        return

    from lerobot_atlasvla.weights.backbones import used_parts

    trial = read_settings(arguments)
    run("device", partial(doctor_preset.check_device, trial))
    run("CPU and memory", doctor_machine.describe_computer)
    run("OpenGL", doctor_machine.check_gl, needs=["mujoco"])
    run("LIBERO assets", doctor_machine.check_assets, needs=["hf-libero"])
    run("LIBERO", doctor_machine.check_libero, needs=["hf-libero", "robosuite", "OpenGL"])
    titles = [PART_TITLES[part] for part in used_parts(trial.config)]
    for part in used_parts(trial.config):
        run(PART_TITLES[part], partial(doctor_preset.check_weights, trial, part))
    run("tokenizer", partial(doctor_preset.check_tokenizer, trial), needs=["transformers", PART_TITLES["language"]])
    run("dataset", partial(doctor_preset.check_dataset, trial))
    policy_needs = ["device", "transformers", "torchvision", *titles, "tokenizer", "dataset"]
    run("policy", partial(doctor_preset.check_policy, trial), needs=policy_needs)
    run("forward pass", partial(doctor_preset.check_forward, trial), needs=["policy"])
    run("select_action", partial(doctor_preset.check_select_action, trial), needs=["policy"])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep logs and warnings out from between the lines, which say what matters in them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
    except UnicodeEncodeError:  # a terminal that knows no ticks
        plain = line.replace("✓", "[ok]").replace("✗", "[FAILED]")
        sys.stdout.write(plain.encode("ascii", "replace").decode() + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit status 0 when every check passed, 1 when one did not, else as :func:`.exit_status`."""
    arguments = sys.argv[1:] if argv is None else argv
    if "--help" in arguments or "-h" in arguments:
        from lerobot.configs.parser import print_scoped_help

        _write(USAGE)
        print_scoped_help(_settings_class(), ["--policy.type=atlasvla"])
        return 0
    checklist = Checklist(_write)

    def work() -> int:
        with _silence():
            check_all(checklist, arguments)
        _write(checklist.verdict)
        return int(checklist.verdict != "ready")

    return exit_status("atlasvla-check", work, errors=(), again="")


if __name__ == "__main__":
    sys.exit(main())
