"""``atlasvla-check``: is this machine ready for a preset? One line per item: a tick, or a cross and one fix."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot_atlasvla.commands import doctor_machine as check_items
from lerobot_atlasvla.commands import doctor_preset as check_preset
from lerobot_atlasvla.commands.doctor_machine import CheckFailedError
from lerobot_atlasvla.commands.doctor_preset import Trial

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
AFTER_PLUGIN = (
    "device",
    "CPU and memory",
    "OpenGL",
    "LIBERO assets",
    "LIBERO",
    "weights",
    "tokenizer",
    "dataset",
    "policy",
    "forward pass",
    "select_action",
)
PART_TITLES = {"vggt": "VGGT weights", "language": "language weights", "vision_tower": "vision tower weights"}


class UsageError(Exception):
    """A flag or value that can't work, in one line."""


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Attributes:
        ok: Whether it holds.
        what: The item.
        detail: What was found.
        fix: What to do, where ``detail`` does not say it already.
    """

    ok: bool
    what: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.detail.rstrip('.')}. Fix: {self.fix}" if self.fix else self.detail
        # Messages of other people's code may have several lines; an item has one.
        return " ".join(f"{'✓' if self.ok else '✗'} {self.what}: {text}".split())


@dataclass
class Checklist:
    """Runs checks one after the other and hands each outcome on as soon as it is known."""

    report: Callable[[str], None]
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, what: str, check: Callable[[], str], needs: Sequence[str] = ()) -> bool:
        """Run one check, unless an item it needs does not hold.

        Args:
            what: The item.
            check: Returns what it found, or raises; whatever it raises becomes a line.
            needs: Items without which the check makes no sense.

        Returns:
            Whether it holds.
        """
        lacking = next((outcome.what for outcome in self.outcomes if outcome.what in needs and not outcome.ok), None)
        if lacking:
            return self._add(Outcome(False, what, f"skipped: needs {lacking}"))
        try:
            detail = check()
        except CheckFailedError as failure:
            return self._add(Outcome(False, what, failure.detail, failure.fix))
        except Exception as error:  # noqa: BLE001 - a broken machine breaks in any way, and each must become a line
            failure = check_items.explain(error)
            return self._add(Outcome(False, what, failure.detail, failure.fix))
        return self._add(Outcome(True, what, detail))

    def _add(self, outcome: Outcome) -> bool:
        self.outcomes.append(outcome)
        self.report(str(outcome))
        return outcome.ok

    @property
    def verdict(self) -> str:
        """The last line."""
        failed = sum(not outcome.ok for outcome in self.outcomes)
        return f"not ready: {failed} of {len(self.outcomes)} checks failed" if failed else "ready"


def read_settings(arguments: Sequence[str]) -> Trial:
    """Parse the flags exactly as ``lerobot-train`` does, except that preset and dataset may be left out.

    Raises:
        UsageError: For flags, values or a file that can't work.
    """
    import draccus
    from lerobot.configs import parser

    from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig

    path = parser.parse_arg("config_path", arguments)
    if path and not Path(path).is_file():
        raise UsageError(f"--config_path={path} is no file; the presets are configs/policy/*.yaml of the repository")
    flags = parser.filter_arg("config_path", arguments)
    if not path and not parser.get_type_arg("policy", flags):
        flags.append("--policy.type=atlasvla")  # there is only one, so nobody should have to name it
    try:
        with draccus.config_type("json"):  # as LeRobot reads its train configurations, YAML included
            config = draccus.parse(_settings_class(), path, args=flags, exit_on_error=False)
    except Exception as error:
        # draccus keeps the reason for a value that a settings class refuses to itself.
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise UsageError(" ".join(f"{error}{cause}".split())) from error
    if not isinstance(config.policy, AtlasVLAConfig):
        name = config.policy.type if config.policy else "no policy"
        raise UsageError(f"--config_path={path} is for {name}, and atlasvla-check knows policy.type=atlasvla only")
    return Trial(config.policy, config.dataset, _asked_device(arguments, path))


def _settings_class() -> "type[TrainPipelineConfig]":
    """LeRobot's train settings with defaults for preset and dataset. In a function: LeRobot takes seconds to import."""
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


def _asked_device(arguments: Sequence[str], path: str | None) -> str | None:
    """The device asked for: LeRobot replaces one that is not there without keeping what it was."""
    import yaml
    from lerobot.configs import parser

    asked = parser.parse_arg("policy.device", arguments)
    if asked or not path:
        return asked
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    return (content.get("policy") or {}).get("device")


def check_machine(checklist: Checklist, arguments: Sequence[str]) -> None:
    """Run all checks, the quick ones first.

    Raises:
        UsageError: For flags that can't work; the checks that need no settings have then been run.
    """
    run = checklist.run
    run("Python", check_items.check_python)
    needed = check_items.requirements()
    for name, requirement in needed.items():
        run(name, partial(check_items.check_package, requirement))
    if not run("plugin", check_items.check_plugin, needs=["Python", "lerobot", "torch"]):
        for what in AFTER_PLUGIN:
            run(what, str, needs=["plugin"])
        return

    trial = read_settings(arguments)
    run("device", partial(check_preset.check_device, trial))
    run("CPU and memory", check_items.describe_computer)
    run("OpenGL", check_items.check_gl, needs=["mujoco"])
    run("LIBERO assets", check_items.check_assets, needs=["hf-libero"])
    run("LIBERO", check_items.check_libero, needs=["hf-libero", "robosuite", "OpenGL"])

    from lerobot_atlasvla.weights.backbones import used_parts

    parts = used_parts(trial.config)
    for part in parts:
        run(PART_TITLES[part], partial(check_preset.check_weights, trial, part))
    run("tokenizer", partial(check_preset.check_tokenizer, trial), needs=["transformers", PART_TITLES["language"]])
    run("dataset", partial(check_preset.check_dataset, trial))
    policy_needs = ["device", "transformers", "torchvision", *(PART_TITLES[part] for part in parts), "tokenizer"]
    run("policy", partial(check_preset.check_policy, trial), needs=[*policy_needs, "dataset"])
    run("forward pass", partial(check_preset.check_forward, trial), needs=["policy"])
    run("select_action", partial(check_preset.check_select_action, trial), needs=["policy"])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No logs and warnings between the lines: what matters in them, the lines say."""
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
    """Console entry point.

    Args:
        argv: Arguments instead of ``sys.argv[1:]``.

    Returns:
        Exit status: 0 when every check holds, 1 when one does not, 2 for a flag or value that can't work, 130 when
        interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if "--help" in arguments or "-h" in arguments:
        from lerobot.configs.parser import print_scoped_help

        _write(USAGE)
        print_scoped_help(_settings_class(), ["--policy.type=atlasvla"])
        return 0
    checklist = Checklist(_write)
    try:
        with _silence():
            check_machine(checklist, arguments)
    except UsageError as error:
        sys.stderr.write(f"atlasvla-check: {error} (see --help)\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("atlasvla-check: interrupted.\n")
        return 130
    _write(checklist.verdict)
    return int(checklist.verdict != "ready")


if __name__ == "__main__":
    sys.exit(main())
