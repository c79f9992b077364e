"""Weights that the Hub does not give: what serves instead, and what the message says to do."""

import logging
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

import lerobot_atlasvla
from lerobot_atlasvla.weights import download as module
from lerobot_atlasvla.weights.download import WeightsError, forget, resolve
from tests.helpers.hub.server import Fault, point_client_to
from tests.weights.download.test_download import ADVICE, FILES, FLAG, INDEX, REPO, find, go_away

pytestmark = pytest.mark.usefixtures("nothing_downloaded")


@pytest.fixture
def no_sleep(monkeypatch):
    """The client's waits between retries, left out."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("/api/", 404, "RepoNotFound"), "does not exist or is private"),
        (Fault("/api/", 404, "RevisionNotFound"), "has no revision 'main'"),
        (Fault("/api/", 401, "RepoNotFound"), "does not exist or is private"),
        (Fault("/api/", 401), "refused access (HTTP 401): run `hf auth login` or check HF_TOKEN"),
        (Fault("/api/", 403), "refused access (HTTP 403)"),
        (Fault("/api/", 400), "refused the request"),
        (Fault("/resolve/", 401, "GatedRepo"), "gated: accept its license on its page on the Hub"),
        (Fault("/resolve/", 403, "GatedRepo"), "gated: accept its license"),
        (Fault("/api/", 503), "is out of reach (HfHubHTTPError: "),
        (Fault("/api/", 429), "is out of reach"),
    ],
)
def test_the_hub_says_no(hub, fault, words):
    hub.publish(REPO, FILES)
    hub.faults.append(fault)
    with pytest.raises(WeightsError) as error:
        find()
    for word in (words, REPO, f"`hf download {REPO}`", FLAG, ADVICE):
        assert word in str(error.value)


def test_without_advice_the_ways_out_still_read_well(hub):
    with pytest.raises(
        WeightsError, match=rf"Download the weights with `hf download {REPO} --revision v1`, or name other"
    ):
        resolve(REPO, revision="v1", flag=FLAG)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/", 500),
        Fault("/api/", 401, "RepoNotFound"),
        Fault("/api/", 403),
        Fault("/api/", hang=True),
        Fault("/resolve/", 403, "GatedRepo"),
    ],
    ids=lambda fault: f"{fault.status}{fault.code}",
)
def test_a_cached_copy_serves_and_says_so(hub, caplog, monkeypatch, fault):
    commit = hub.publish(REPO, FILES)
    find()
    forget()
    monkeypatch.setattr(module, "_HUB_SECONDS", 0.5)  # no sooner: nothing could stand in for the first answer
    hub.publish(REPO, FILES | {"model.safetensors": b"new"})
    hub.faults.append(fault)
    found = find()
    assert (found.revision, found.weights[0].read_bytes()) == (commit, FILES["model.safetensors"])
    assert f"the copy in the local cache is used (commit {commit})" in found.fallback
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(found.fallback in record.getMessage() for record in warnings)


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound"])
def test_what_the_hub_knows_to_be_gone_is_not_taken_from_the_cache(hub, code):
    hub.publish(REPO, FILES)
    find()
    forget()
    hub.faults.append(Fault("/api/", 404, code))
    with pytest.raises(WeightsError):
        find()


def test_no_connection_is_found_out_at_once(hub, caplog, monkeypatch):
    commit = hub.publish(REPO, FILES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: pytest.fail("a retry"))
        go_away(hub, monkeypatch)
        with pytest.raises(WeightsError, match=r"out of reach \(ConnectError.*cache .* does not have revision 'main'"):
            find()
    point_client_to(hub.url, monkeypatch)
    find()
    go_away(hub, monkeypatch)
    assert find().revision == commit
    assert "out of reach" in find().fallback
    assert "out of reach" in caplog.text


def test_something_else_than_a_hub_answers(hub, monkeypatch):
    hub.faults.append(Fault("/api/", 200))
    with pytest.raises(WeightsError, match="out of reach"):
        find()


@pytest.mark.parametrize("part", ["/api/", "/large/"])
def test_a_hub_that_trickles_is_given_up(hub, cache, monkeypatch, part):
    """A byte now and then: no read of it ever times out. Without a copy in the cache, the message says what it was."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(module, "_STALL_SECONDS", 0.3)
    hub.publish(REPO, FILES)
    hub.faults.append(Fault(part, trickle=True))
    with pytest.raises(WeightsError, match=r"stalled: (no end|less than 262144 bytes came) within 0\.3 s"):
        find()


def test_a_hub_that_trickles_leaves_the_copy_in_the_cache(hub, monkeypatch, caplog):
    commit = hub.publish(REPO, FILES)
    find()
    forget()
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.3)
    hub.faults.append(Fault("/api/", trickle=True))
    found = find()
    assert found.revision == commit
    assert "StalledError" in found.fallback


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_proxy_that_the_client_cannot_use_leaves_the_copy_in_the_cache(hub, monkeypatch, proxy):
    """httpx needs another package for SOCKS, and says so with an ImportError."""
    from huggingface_hub import close_session

    commit = hub.publish(REPO, FILES)
    find()
    forget()
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    close_session()
    try:
        assert find().revision == commit
        with pytest.raises(WeightsError, match="is out of reach"):
            find("someone/else")
    finally:
        close_session()


def test_offline_is_no_reason_to_warn(hub, caplog, monkeypatch):
    commit = hub.publish(REPO, FILES)
    find()
    forget()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.INFO):
        found = find()
    assert not hub.requests
    assert found.revision == commit
    assert found.fallback.startswith("HF_HUB_OFFLINE is set")
    assert {record.levelno for record in caplog.records if record.name == module.__name__} == {logging.INFO}
    with pytest.raises(WeightsError, match=rf"HF_HUB_OFFLINE is set.*does not have revision 'v9', only {commit}"):
        find(revision="v9")


def test_an_incomplete_cache_does_not_serve(hub, monkeypatch):
    hub.publish(
        REPO, {"model.safetensors.index.json": INDEX.encode(), "part-1.safetensors": b"", "part-2.safetensors": b""}
    )
    find().weights[1].unlink()
    go_away(hub, monkeypatch)
    with pytest.raises(WeightsError, match=r"out of reach.*1 of the 2 shards.*missing: part-2\.safetensors"):
        find()


@pytest.mark.usefixtures("no_sleep")
@pytest.mark.parametrize("fault", [Fault("/resolve/", 500), Fault("/large/", 500), Fault("/large/", cut_at=2000)])
def test_a_download_that_breaks_off(hub, cache, fault, monkeypatch):
    old = hub.publish(REPO, FILES)
    find()
    forget()
    new = hub.publish(REPO, FILES | {"model.safetensors": b"new" * 1000})
    hub.faults.append(fault)
    with pytest.raises(WeightsError, match=r"download of .* broke off .*Run the same command again"):
        find()
    # Nothing half-written is used: without the Hub the previous snapshot still serves.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert find().revision == old
        forget()
    hub.faults.clear()
    found = find()
    assert (found.revision, found.weights[0].read_bytes()) == (new, b"new" * 1000)
    assert not list(cache.rglob("*.incomplete"))


@pytest.mark.usefixtures("no_sleep")
def test_a_short_break_is_bridged_by_the_client(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.publish(REPO, FILES)
    hub.faults.append(Fault("/large/", cut_at=2000, times=1))
    assert find().weights[0].read_bytes() == FILES["model.safetensors"]
    assert hub.ranges == ["bytes=2000-"]


def test_the_environment_of_a_process_is_obeyed(hub, cache):
    """The same without patched constants: HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE as users set them."""
    commit = hub.publish(REPO, FILES)
    program = (
        # The package without its own first lines: they would import LeRobot, which takes seconds.
        "import sys, types; package = sys.modules['lerobot_atlasvla'] = types.ModuleType('lerobot_atlasvla')\n"
        f"package.__path__ = {lerobot_atlasvla.__path__!r}\n"
        "from lerobot_atlasvla.weights.download import resolve\n"
        f"found = resolve({REPO!r}, flag='--x')\n"
        "assert 'lerobot' not in sys.modules\n"
        "sys.stdout.write(found.revision + ' ' + found.fallback)"
    )

    def run(**environment: str) -> str:
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "NO_PROXY": "*", **environment}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        result = subprocess.run(
            [sys.executable, "-c", program], env=kept | settings, capture_output=True, text=True, check=True
        )
        return result.stdout

    assert run() == f"{commit} "
    hub.requests.clear()
    assert "HF_HUB_OFFLINE is set" in run(HF_HUB_OFFLINE="1")
    assert not hub.requests


def test_the_suggested_command_can_be_pasted():
    """With a name that a shell would take apart."""
    assert module._ways_out("someone/eyes", "a&b", FLAG, "").startswith(
        "Download the weights with `hf download someone/eyes --revision 'a&b'`"
    )
