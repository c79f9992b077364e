"""The pipelines of a checkpoint, read before LeRobot reads them: a file must not choose which code runs.

LeRobot builds ``policy_preprocessor.json`` and ``policy_postprocessor.json`` by importing and calling whatever class a
step names (``lerobot/processor/pipeline.py``, ``_resolve_step_class``), and checks afterward. A step named through
LeRobot's registry can only be one that is registered already.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from lerobot.processor import ProcessorStepRegistry
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

FILES = (f"{POLICY_PREPROCESSOR_DEFAULT_NAME}.json", f"{POLICY_POSTPROCESSOR_DEFAULT_NAME}.json")

# Until 2026-11-26 our tokenizer step was saved by its import path. Exact strings, never patterns.
_IMPORT_PATHS = frozenset({"lerobot_atlasvla.processor_atlasvla.SelfContainedTokenizerStep"})
# Whose registered steps a checkpoint of ours may use.
_PACKAGES = ("lerobot.processor.", "lerobot_atlasvla.")
# LeRobot's own that read a model by a name that the file gives, from a folder or the Hub. Ours brings its tokenizer.
_READ_BY_NAME = frozenset({"tokenizer_processor", "action_tokenizer_processor", "reward_classifier_processor"})
# LeRobot's default for the step that has this setting is to run the code that it downloads.
_RUNS_CODE, _RUNS_CODE_UNLESS = "action_tokenizer_processor", "trust_remote_code"
# What LeRobot downloads the pipelines with.
_HUB_ARGUMENTS = ("force_download", "proxies", "token", "cache_dir", "local_files_only", "revision")


class PipelineError(ValueError):
    """A checkpoint's pipeline names code that it may not choose, or is no pipeline."""


def check_pipelines(checkpoint: str | Path, *, ours: bool = True, **hub: Any) -> None:
    """Check the steps that both pipelines of a checkpoint name; importing and calling nothing.

    Args:
        checkpoint: A folder, or the id of a model on the Hub. A pipeline that is not there is left to LeRobot.
        ours: Whether all steps must be LeRobot's or AtlasVLA's. For other policies any registered name will do, also
            one that is registered later, when LeRobot imports that policy.
        hub: Arguments of ``from_pretrained`` that choose a version on the Hub; others are ignored.

    Raises:
        PipelineError: If a step is named otherwise than by a registered name, would run downloaded code, or keeps its
            state elsewhere than in a file beside it; with ``ours``, also if a step reads a model by a name.
    """
    for name in FILES:
        file = find_file(checkpoint, name, **hub)
        if file is not None:
            _check(file, ours)


def find_file(checkpoint: str | Path, name: str, **hub: Any) -> Path | None:
    """Return a file of a checkpoint, downloaded if that is on the Hub; ``None`` if it has no such file.

    Args:
        checkpoint: A folder, or the id of a model on the Hub.
        name: The file's name.
        hub: Arguments of ``from_pretrained`` that choose a version on the Hub; others are ignored.

    Raises:
        PipelineError: If a folder is in its place, or the Hub can't be asked and the cache does not know.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if (folder / name).is_dir():
            raise PipelineError(f"{folder / name} is a folder where a checkpoint has a file.")
        return folder / name if (folder / name).is_file() else None
    if folder.exists():
        return None
    chosen = {key: hub[key] for key in _HUB_ARGUMENTS if hub.get(key) is not None}
    try:
        return Path(hf_hub_download(str(checkpoint), name, **chosen))
    except LocalEntryNotFoundError as error:  # the Hub can't be asked; a kind of the next one
        where = {key: chosen[key] for key in ("cache_dir", "revision") if key in chosen}
        absent = try_to_load_from_cache(str(checkpoint), name, **where) is _CACHED_NO_EXIST
        # Where nobody may ask the Hub, LeRobot can't get it either.
        if absent or constants.HF_HUB_OFFLINE or chosen.get("local_files_only"):
            return None
        raise PipelineError(
            f"{checkpoint} may have a {name}, which must be read before LeRobot does, and the Hub can't be asked: "
            f"{error} Try again, set HF_HUB_OFFLINE=1 to use what is cached, or give a downloaded folder."
        ) from error
    except EntryNotFoundError:
        return None


def _check(file: Path, ours: bool) -> None:
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
        entries = [(step.get("registry_name"), step.get("class"), step.get("state_file")) for step in steps]
        settings = [dict(step.get("config") or {}) for step in steps]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PipelineError(f"{file} is not a pipeline of LeRobot: {type(error).__name__}: {error}.") from error
    known = {
        name
        for name in ProcessorStepRegistry.list()
        if ProcessorStepRegistry.get(name).__module__.startswith(_PACKAGES) and name not in _READ_BY_NAME
    }
    for (name, path, state), config in zip(entries, settings, strict=True):
        if not isinstance(name, str) and (name is not None or path not in _IMPORT_PATHS):
            raise PipelineError(
                f"{file} names a step by the import path {path!r}, which would run that code. Allowed are the names of "
                "registered steps ('registry_name'); replace the step by hand if you trust the checkpoint's author."
            )
        if name is not None and ours and name not in known:
            raise PipelineError(
                f"{file} has a step {name!r}, which is neither LeRobot's nor AtlasVLA's, or reads a model by a name "
                f"that the file chooses. Allowed: {', '.join(sorted(known))}."
            )
        if config.get(_RUNS_CODE_UNLESS, name == _RUNS_CODE) is not False:
            raise PipelineError(
                f"{file} has a step {name or path!r} that would run downloaded code ({_RUNS_CODE_UNLESS}). Set it to "
                "false by hand if the step does without."
            )
        if state is not None and (not isinstance(state, str) or not state or Path(state).name != state):
            raise PipelineError(f"{file} keeps a step's state in {state!r}; it must be the name of a file beside it.")
