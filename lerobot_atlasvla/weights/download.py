"""Resolve a name to weight files: local ones, those of the Hugging Face Hub, or its cache if that is out of reach."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lerobot_atlasvla.utils.errors import first_line
from lerobot_atlasvla.utils.patience import size_of, with_patience

logger = logging.getLogger(__name__)

# In this order; after them the only other *.safetensors, then the only other *.pt.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "model.pt", "pytorch_model.bin")
_INDEX = ".safetensors.index.json"
_SUFFIXES = (".safetensors", _INDEX, ".pt", ".bin")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Both become paths below a folder: a branch such as refs/pr/1 has parts, the file of a shard has none.
_REVISION = re.compile(r"\w[\w.+@-]*(?:/\w[\w.+@-]*)*")
_SHARD = re.compile(r"\w[\w.+-]*\.safetensors")
# For the connection and each part of an answer; then for a whole answer; then for so many bytes of a download.
_HUB_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_STALL_SECONDS = 60.0
_STALL_BYTES = 2**18
_LISTED = 5


class WeightsError(ValueError):
    """Pretrained weights can't be had or used; the message says why and what to do about it."""


def listing(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are, for error messages."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


class _UnavailableError(Exception):
    """The weights can't be had: a sentence without its full stop.

    ``cache_may_serve``: the reason speaks against the network or the account, not against what was asked for.
    """

    def __init__(self, reason: str, *, cache_may_serve: bool = False):
        super().__init__(reason)
        self.cache_may_serve = cache_may_serve


@dataclass(frozen=True)
class ResolvedWeights:
    """Pretrained weights on this machine.

    Attributes:
        name: As asked: a Hub id, a folder or a file.
        revision: Commit hash of the Hub repository's snapshot; empty for local weights.
        weights: Weight files; several if they are sharded.
        folder: The folder with the files that belong to the weights (config.json, tokenizer), as far as there are any.
        fallback: Empty, or one sentence on how this may differ from what was asked.
    """

    name: str
    revision: str
    weights: tuple[Path, ...]
    folder: Path
    fallback: str = ""


def resolve(
    name: str,
    *,
    revision: str | None = None,
    companions: Sequence[str] = ("config.json",),
    flag: str,
    advice: str = "",
) -> ResolvedWeights:
    """Find pretrained weights, downloading them from the Hub if they are not local.

    If the Hub can't be reached or refuses access, a copy in the local cache is used, with a warning. What was found on
    the Hub or in its cache is remembered until the process ends (:func:`forget`).

    Args:
        name: Local weight file (``*.safetensors``, ``*.safetensors.index.json``, ``*.pt``, ``*.bin``), local folder, or
            Hub id ``owner/name``. What looks like a path is never sent to the Hub.
        revision: Branch, tag or commit of the Hub repository; None is its main branch.
        companions: Files wanted beside the weights, skipped where the repository does not have them.
        flag: Command line flag that sets ``name``, for error messages.
        advice: Another way out, for error messages, continuing a list: "or ...".

    Raises:
        WeightsError: If there are no such weights or they can't be downloaded.
    """
    local = not is_hub_id(name)
    try:
        if revision is not None and not _REVISION.fullmatch(revision):
            raise _UnavailableError(
                f"revision {revision!r} is no branch, tag or commit: parts of letters, digits and . + @ - _, each "
                "beginning with a letter or digit, joined by /"
            )
        if not local:
            return _on_hub(name, revision, tuple(companions))
        if revision is not None:
            raise _UnavailableError(
                f"revision {revision!r} selects a commit of a Hub repository (owner/name), but {name!r} is local"
            )
        return _in_files(name)
    except _UnavailableError as problem:
        raise WeightsError(
            f"Cannot get the weights {name!r}: {problem}. {_ways_out('' if local else name, revision, flag, advice)}"
        ) from problem


def is_hub_id(name: str) -> bool:
    """Return whether a name of weights is looked for on the Hub: ``owner/name``, and no file or folder is called so."""
    return bool(_HUB_ID.fullmatch(name)) and not name.endswith(_SUFFIXES) and not os.path.exists(name)


@functools.cache
def resolve_or_substitute(
    name: str, substitute: str, *, companions: tuple[str, ...], flag: str, advice: str
) -> ResolvedWeights:
    """Find a default of ours on the Hub or, with a warning, what takes its place where it can't be had.

    The answer is remembered like those of :func:`resolve`: whoever asks again in this process gets the same weights.

    Raises:
        WeightsError: If neither can be had.
    """
    try:
        return resolve(name, companions=companions, flag=flag, advice=advice)
    except WeightsError as error:
        try:
            found = resolve(substitute, companions=companions, flag=flag, advice=advice)
        except WeightsError:
            raise WeightsError(f"{error} (Its substitute {substitute} can't be had either.)") from error
        why = f"{name} could not be had, {substitute} takes its place"
        logger.warning("FALLBACK: %s. %s", why, error)
        return replace(found, fallback=". ".join(filter(None, (why, found.fallback))))


def forget() -> None:
    """Forget what was found on the Hub, so that the next :func:`resolve` asks it again."""
    _on_hub.cache_clear()
    resolve_or_substitute.cache_clear()


def _ways_out(repository: str, revision: str | None, flag: str, advice: str) -> str:
    command = shlex.join(["hf", "download", repository, *(["--revision", revision] if revision else [])])
    options = [f"download the weights with `{command}`"] if repository else []
    options.append(f"name other weights with {flag}")
    if advice:
        options.append(advice)
    elif repository:
        options[-1] = f"or {options[-1]}"
    sentence = ", ".join(options)
    return f"{sentence[0].upper()}{sentence[1:]}."


# Local files


def _in_files(name: str) -> ResolvedWeights:
    path = Path(os.path.expanduser(name))
    if not name or not path.exists():
        raise _UnavailableError("that is neither a local file or folder nor a Hub id (owner/name)")
    if path.is_dir():
        return ResolvedWeights(name, "", _in_folder(path, str(path)), path)
    if not path.name.endswith(_SUFFIXES):
        raise _UnavailableError(f"a weight file ends in one of {', '.join(_SUFFIXES)}")
    return ResolvedWeights(name, "", _with_shards(path), path.parent)


def _in_folder(folder: Path, label: str) -> tuple[Path, ...]:
    return _with_shards(folder / _choose((path.name for path in folder.iterdir() if path.is_file()), label))


def _choose(files: Iterable[str], label: str) -> str:
    """Pick the weight file among ``files``; ``label`` is what has them."""
    names = sorted(files)
    for name in WEIGHT_FILES:
        if name in names:
            return name
    for suffix in (".safetensors", ".pt"):
        others = [name for name in names if name.endswith(suffix)]
        if len(others) == 1:
            return others[0]
        if others:
            raise _UnavailableError(f"{label} has several weight files and it is not clear which: {listing(others)}")
    raise _UnavailableError(
        f"{label} has no weight file; looked for {', '.join(WEIGHT_FILES)}, *.safetensors or *.pt, "
        f"found {listing(names) or 'no files'}"
    )


def _with_shards(weights: Path) -> tuple[Path, ...]:
    """Return the file itself or, if it is an index, the shards it names."""
    if not weights.name.endswith(_INDEX):
        return (weights,)
    shards = [weights.parent / name for name in _shard_names(weights)]
    # Links are followed: in the Hub's cache, index and shards are links to files that lie side by side.
    allowed = {weights.parent.resolve(), weights.resolve().parent}
    outside = [shard.name for shard in shards if shard.exists() and shard.resolve().parent not in allowed]
    if outside:
        raise _UnavailableError(f"{weights} names shards that are links to another folder: {listing(outside)}")
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise _UnavailableError(
            f"{len(missing)} of the {len(shards)} shards that {weights} names are missing: {listing(missing)}"
        )
    return tuple(shards)


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _UnavailableError(f"{index} is not an index of shards ({_brief(error)}); download it again") from error
    if not names:
        raise _UnavailableError(f"{index} names no shards; download it again")
    if foreign := [repr(name) for name in names if not _SHARD.fullmatch(name)]:
        raise _UnavailableError(f"{index} names shards that are not *.safetensors files beside it: {listing(foreign)}")
    return names


# The Hub and its cache; huggingface_hub is imported when it is needed, local weights do without.


@functools.cache
def _on_hub(name: str, revision: str | None, companions: tuple[str, ...]) -> ResolvedWeights:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        if revision and _COMMIT.fullmatch(revision) and (pinned := _pinned(name, revision, companions)):
            return pinned
        if constants.HF_HUB_OFFLINE:
            return _in_cache(name, revision, "HF_HUB_OFFLINE is set", logging.INFO)
        return _download(name, revision, companions)
    except HFValidationError as error:
        raise _UnavailableError(f"that is no Hub id ({_brief(error)})") from error
    except _UnavailableError as problem:
        if not problem.cache_may_serve:
            raise
        return _in_cache(name, revision, str(problem), logging.WARNING)


def _unreachable() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises when it gets no answer, or does not even get to ask."""
    import httpx

    return (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, ImportError, ValueError)


def _download(name: str, revision: str | None, companions: tuple[str, ...]) -> ResolvedWeights:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    # First a question with a deadline: snapshot_download asks with retries, and can't tell which weight file to take.
    try:
        info = with_patience(
            lambda: api.model_info(name, revision=revision, timeout=_HUB_SECONDS), seconds=_ANSWER_SECONDS
        )
        commit, available = str(info.sha), {file.rfilename for file in info.siblings or ()}
    # TypeError and KeyError: what answers is no Hub. RuntimeError is what test runners raise from a socket they have
    # disabled. ImportError, InvalidURL and ValueError: a proxy that the client can't use.
    except HFValidationError:
        raise
    except (*_unreachable(), TypeError, KeyError, json.JSONDecodeError) as error:
        raise _explained(error, revision) or _UnavailableError(
            f"the Hub ({api.endpoint}) is out of reach ({_brief(error)})", cache_may_serve=True
        ) from error
    chosen = _choose((file for file in available if "/" not in file), f"the Hub repository (commit {commit[:12]})")
    logger.info("Pretrained weights %s: %s at commit %s", name, chosen, commit)
    wanted = [chosen, *(file for file in companions if file in available)]

    def fetch(files: list[str], at: str) -> Path:
        cached = [path for file in files if (path := _cached(name, file, at)) and path.parent.name == commit]
        if len(cached) == len(files):
            return cached[0].parent
        arriving = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "blobs")
        return Path(
            with_patience(
                lambda: snapshot_download(name, revision=at, allow_patterns=files, etag_timeout=_HUB_SECONDS),
                seconds=_STALL_SECONDS,
                progress=lambda: size_of(arriving),
                least=_STALL_BYTES,
            )
        )

    try:
        folder = fetch(wanted, commit)
        if chosen.endswith(_INDEX):
            fetch(_shard_names(folder / chosen), commit)
        # Only now, all files being there, is the cache to know which commit the branch is: until then, without the Hub,
        # its previous commit serves.
        fetch(wanted, revision or "main")
    except _unreachable() as error:
        raise _explained(error, revision) or _UnavailableError(
            f"the download of {chosen} broke off ({_brief(error)}). Run the same command again to go on: complete "
            "files are kept, incomplete ones are never used"
        ) from error
    return ResolvedWeights(name, commit, _with_shards(folder / chosen), folder)


def _explained(error: Exception, revision: str | None) -> _UnavailableError | None:
    """Say what an answer of the Hub means to the user; None if it says nothing about the repository or the account."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if not isinstance(error, HfHubHTTPError):
        return None
    status = error.response.status_code
    refused = status in (401, 403)
    if isinstance(error, GatedRepoError):
        reason = "access is gated: accept its license on its page on the Hub, then run `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"the Hub repository has no revision {revision or 'main'!r}"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "the Hub repository does not exist or is private (then run `hf auth login`)"
    elif refused:
        reason = f"the Hub refused access (HTTP {status}): run `hf auth login` or check HF_TOKEN"
    elif status >= 500 or status in (408, 429):
        return None
    else:
        reason = f"the Hub refused the request ({_brief(error)})"
    return _UnavailableError(reason, cache_may_serve=refused)


def _brief(error: BaseException) -> str:
    # huggingface_hub wraps whatever went wrong in "cannot find the requested files in the local cache".
    if isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    return first_line(error, 200, kind=True)


def _cached(name: str, file: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _pinned(name: str, commit: str, companions: tuple[str, ...]) -> ResolvedWeights | None:
    """Return the cached snapshot if it is certain to be what the Hub would give: then there is nothing to ask."""
    if not all(_cached(name, file, commit) for file in companions):
        return None
    # A commit with any other weight file may have one of these two on the Hub, and that would be chosen.
    for file in WEIGHT_FILES[:2]:
        if path := _cached(name, file, commit):
            try:
                return ResolvedWeights(name, commit, _with_shards(path), path.parent)
            except _UnavailableError:
                return None
    return None


def _in_cache(name: str, revision: str | None, reason: str, level: int) -> ResolvedWeights:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # No patterns, no files: which ones there are is seen below.
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError as error:
        others = _cached_commits(name)
        raise _UnavailableError(
            f"{reason}, and the local cache ({constants.HF_HUB_CACHE}) does not have revision {revision or 'main'!r}"
            + (f", only {listing(others)}" if others else "")
        ) from error
    try:
        weights = _in_folder(folder, f"the local cache ({folder})")
    except _UnavailableError as problem:
        raise _UnavailableError(f"{reason}, and {problem}") from problem
    age = "" if folder.name == revision else ", which may not be the newest"
    fallback = f"{reason}; the copy in the local cache is used (commit {folder.name}){age}"
    logger.log(level, "Pretrained weights %s: %s", name, fallback)
    return ResolvedWeights(name, folder.name, weights, folder, fallback)


def _cached_commits(name: str) -> list[str]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    models = [repo for repo in repositories if (repo.repo_type, repo.repo_id) == ("model", name)]
    return sorted(revision.commit_hash for repo in models for revision in repo.revisions)
