"""LIBERO's assets from the Hugging Face Hub, at a bounded cost when the Hub cannot be reached."""

from __future__ import annotations

import http.client
import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from lerobot_atlasvla.files.replacing import write_text
from lerobot_atlasvla.utils.patience import size_of, with_patience

logger = logging.getLogger(__name__)

REPOSITORY = "lerobot/libero-assets"
_PROBE_SECONDS = 5.0
_REMEMBERED_SECONDS = 3600.0
# A download with fewer bytes in that time is given up.
_STALL_SECONDS = 60.0
_STALL_BYTES = 2**18


def download_assets(cache: Path) -> Path | None:
    """Return LIBERO's assets downloaded into ``cache``, now or earlier.

    A download is complete when its folder carries its final name; until then it has another one, so that an interrupted
    download is continued and never used.

    Args:
        cache: AtlasVLA's cache folder.

    Returns:
        The assets folder, or None if the Hub is off, out of reach or failing. "Out of reach" costs at most five seconds
        and is remembered for an hour.
    """
    target = cache / "libero-assets"
    if target.is_dir():
        return target
    if not _reachable(cache):
        return None
    # Only now: this import costs more than everything else in this module.
    import httpx
    from huggingface_hub import snapshot_download

    partial = cache / "libero-assets.partial"
    logger.warning("Downloading LIBERO's assets from the Hub (%s) to %s", REPOSITORY, target)
    try:
        with_patience(
            lambda: snapshot_download(REPOSITORY, repo_type="dataset", local_dir=partial),
            seconds=_STALL_SECONDS,
            progress=lambda: size_of(partial),
            least=_STALL_BYTES,
        )
        os.replace(partial, target)
    # ImportError, InvalidURL and ValueError: a proxy that the client can't use.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        if target.is_dir():  # Another process finished first.
            return target
        _remember(cache, _endpoint())
        logger.warning("Could not download LIBERO's assets: %s. %s", error, _retry_hint(cache))
        return None
    return target


def _reachable(cache: Path) -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        logger.info("HF_HUB_OFFLINE is set: LIBERO's assets are not looked for on the Hub")
        return False
    endpoint = _endpoint()
    age = time.time() - _verdicts(cache).get(endpoint, 0.0)
    if 0 <= age < _REMEMBERED_SECONDS:
        logger.info("%s was out of reach %d min ago. %s", endpoint, age // 60, _retry_hint(cache))
        return False
    if _answers(endpoint, _PROBE_SECONDS):
        return True
    _remember(cache, endpoint)
    logger.warning("The Hub (%s) cannot be reached. %s", endpoint, _retry_hint(cache))
    return False


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _answers(endpoint: str, seconds: float) -> bool:
    """Tell whether any HTTP answer comes within ``seconds``; looking up a host name has no timeout of its own."""

    def ask() -> None:
        request = urllib.request.Request(f"{endpoint}/api/datasets/{REPOSITORY}", method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()

    try:
        with_patience(ask, seconds=seconds)
    except urllib.error.HTTPError:
        return True
    # RuntimeError is what test runners raise from a socket they have disabled.
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
        logger.debug("probe of %s: %r", endpoint, error)
        # The Hub's own client may trust certificates that this probe does not know.
        return isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLError)
    return True


def _verdict_file(cache: Path) -> Path:
    return cache / "hub-unreachable.json"


def _retry_hint(cache: Path) -> str:
    return f"To try again within the hour, delete {_verdict_file(cache)}"


def _verdicts(cache: Path) -> dict[str, float]:
    try:
        content = json.loads(_verdict_file(cache).read_text(encoding="utf-8"))
        return {str(endpoint): float(moment) for endpoint, moment in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(cache: Path, endpoint: str) -> None:
    content = json.dumps(_verdicts(cache) | {endpoint: time.time()})
    try:
        write_text(_verdict_file(cache), content)
    except OSError as error:
        logger.debug("cannot remember that %s is out of reach: %s", endpoint, error)
