"""Pretrained weights are found where they should be, and every failure says what to do."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lerobot_atlasvla.weights import download as module
from lerobot_atlasvla.weights.download import WeightsError, forget, resolve
from tests.hub_server import Fault, HubServer, point_client_to

REPO = "someone/eyes"
FLAG = "--policy.vggt_model"
ADVICE = "or start from random weights with --policy.vggt_init=random"
INDEX = json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors", "c": "part-1.safetensors"}})
FILES = {"model.safetensors": b"weights" * 1000, "config.json": b"{}", "model.pt": b"other", "sub/x.bin": b"deep"}


@pytest.fixture(autouse=True)
def _forgetful():
    forget()
    yield
    forget()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch, cache):
    with HubServer() as server:
        server.use(monkeypatch, cache)
        yield server


@pytest.fixture
def no_sleep(monkeypatch):
    """The client's waits between retries, left out."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def find(name: str | Path = REPO, **options):
    return resolve(str(name), flag=FLAG, advice=ADVICE, **options)


def go_away(hub: HubServer, monkeypatch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    point_client_to(f"http://127.0.0.1:{port}", monkeypatch)
    hub.requests.clear()
    forget()


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(INDEX if name.endswith(".index.json") else "x")
    return folder


# --- local ---


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["pytorch_model.bin", "model.pt", "model.safetensors", "other.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model.pt", "part-1.safetensors", "part-2.safetensors"],
            ["part-1.safetensors", "part-2.safetensors"],
        ),
        (["pytorch_model.bin", "model.pt"], ["model.pt"]),
        (["pytorch_model.bin", "commercial.pt"], ["pytorch_model.bin"]),
        (["readme.md", "commercial.pt"], ["commercial.pt"]),
        (["one.safetensors", "a.pt", "b.pt"], ["one.safetensors"]),
    ],
)
def test_the_weight_file_of_a_folder(tmp_path, files, chosen):
    folder = write(tmp_path / "weights", *files)
    found = find(folder)
    assert [path.name for path in found.weights] == chosen
    assert (found.folder, found.revision, found.fallback) == (folder, "", "")


@pytest.mark.parametrize("name", ["any.safetensors", "any.pt", "any.bin"])
def test_a_file_is_taken_as_it_is(tmp_path, name):
    file = write(tmp_path, name, "model.safetensors") / name
    assert find(file).weights == (file,)
    assert find(file).folder == tmp_path


def test_an_index_is_followed_to_its_shards(tmp_path):
    index = write(tmp_path, "x.safetensors.index.json", "part-1.safetensors", "part-2.safetensors")
    found = find(index / "x.safetensors.index.json")
    assert [path.name for path in found.weights] == ["part-1.safetensors", "part-2.safetensors"]


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "weights", "model.pt")
    assert find("~/weights").weights == (tmp_path / "weights" / "model.pt",)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["no weight file", "no files"]),
        (["readme.md", "config.json"], ["no weight file", "looked for model.safetensors", "config.json, readme.md"]),
        (["a.safetensors", "b.safetensors"], ["several weight files", "a.safetensors, b.safetensors"]),
        (
            ["model.safetensors.index.json", "part-1.safetensors"],
            ["1 of the 2 shards", "part-2.safetensors", "are missing"],
        ),
    ],
)
def test_a_folder_without_usable_weights(tmp_path, files, words):
    with pytest.raises(WeightsError) as error:
        find(write(tmp_path / "weights", *files))
    for word in [*words, str(tmp_path), FLAG, ADVICE]:
        assert word in str(error.value)
    assert "hf download" not in str(error.value)


def test_a_broken_index(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for content in ("{", "[]", '{"weight_map": {}}'):
        index.write_text(content)
        with pytest.raises(WeightsError, match=r"index\.json .*download it again"):
            find(tmp_path)


@pytest.mark.parametrize(
    "name", ["/no/where", "./no/where", "~/no/where", "no/where/at-all", "nowhere", "", "no/model.safetensors", "a b/c"]
)
def test_what_looks_like_a_path_is_never_sent_to_the_hub(hub, name):
    with pytest.raises(WeightsError, match="neither a local file or folder nor a Hub id"):
        find(name)
    assert not hub.requests


def test_an_existing_folder_wins_over_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path(REPO), "model.pt")
    assert find().weights == (Path(REPO) / "model.pt",)
    assert not hub.requests


def test_a_revision_needs_the_hub(tmp_path):
    write(tmp_path, "model.pt")
    with pytest.raises(WeightsError, match=r"revision 'main' .* is local"):
        find(tmp_path, revision="main")


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/part.safetensors",
        "..\\secret.safetensors",
        "*.safetensors",
        ".hidden.safetensors",
        "model.pt",
        "",
        "..",
    ],
)
def test_a_shard_is_the_name_of_a_file_beside_its_index(tmp_path, shard):
    for place in (tmp_path / "secret.safetensors", tmp_path / "weights/sub/part.safetensors"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
    index = tmp_path / "weights/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match="names shards that are not"):
        find(tmp_path / "weights")


def test_a_shard_that_is_a_link_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/weights.safetensors").write_text("x")
    folder = write(tmp_path / "weights", "model.safetensors.index.json", "part-1.safetensors")
    (folder / "part-2.safetensors").symlink_to(tmp_path / "secret/weights.safetensors")
    with pytest.raises(WeightsError, match="links to another folder: part-2"):
        find(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    blobs = write(tmp_path / "blobs", "one.index.json", "two", "three")
    folder = tmp_path / "snapshots/abc"
    folder.mkdir(parents=True)
    names = ("model.safetensors.index.json", "part-1.safetensors", "part-2.safetensors")
    for name, blob in zip(names, ("one.index.json", "two", "three"), strict=True):
        (folder / name).symlink_to(blobs / blob)
    assert [path.name for path in find(folder).weights] == ["part-1.safetensors", "part-2.safetensors"]


@pytest.mark.parametrize(
    "revision", ["../../../evil", "/etc", "a/../../b", "a\\b", "~", "", "main; rm -rf .", "a//b", "a/"]
)
def test_a_revision_stays_in_the_cache(hub, revision):
    with pytest.raises(WeightsError, match="is no branch, tag or commit"):
        find(revision=revision)
    assert not hub.requests


def test_the_suggested_command_can_be_pasted():
    """With a name that a shell would take apart."""
    assert module._ways_out("someone/eyes", "a&b", FLAG, "").startswith(
        "Download the weights with `hf download someone/eyes --revision 'a&b'`"
    )


def test_a_file_that_holds_no_weights(tmp_path):
    with pytest.raises(WeightsError, match=r"a weight file ends in one of \.safetensors"):
        find(write(tmp_path, "config.json") / "config.json")


# --- Hub ---


def test_only_what_is_needed_is_downloaded(hub):
    commit = hub.publish(REPO, FILES)
    found = find(companions=("config.json", "tokenizer.json"))
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]
    assert (found.name, found.revision, found.fallback) == (REPO, commit, "")
    assert [path.read_bytes() for path in found.weights] == [FILES["model.safetensors"]]
    assert (found.folder / "config.json").read_bytes() == b"{}"


def test_asking_twice_asks_the_hub_once(hub):
    hub.publish(REPO, FILES)
    first = find()
    hub.requests.clear()
    assert find() == first
    assert not hub.requests


def test_a_later_process_only_asks_for_the_commit(hub):
    hub.publish(REPO, FILES)
    first = find()
    forget()
    hub.requests.clear()
    assert find() == first
    assert hub.requests == [f"GET /api/models/{REPO}"]


def test_a_cached_commit_needs_no_hub(hub, monkeypatch):
    commit = hub.publish(REPO, FILES)
    find()
    go_away(hub, monkeypatch)
    assert find(revision=commit).fallback == ""


def test_without_the_hub_the_newest_complete_download_serves(hub, monkeypatch):
    hub.publish(REPO, FILES)
    find()
    forget()
    new = hub.publish(REPO, FILES | {"model.safetensors": b"new"})
    find()
    go_away(hub, monkeypatch)
    assert find().revision == new


def test_a_file_that_was_removed_is_downloaded_again(hub):
    commit = hub.publish(REPO, FILES)
    for revision in (None, commit):
        find().weights[0].resolve().unlink()
        forget()
        assert find(revision=revision).weights[0].read_bytes() == FILES["model.safetensors"]


def test_shards_are_downloaded(hub):
    shards = {"part-1.safetensors": b"1", "part-2.safetensors": b"2"}
    hub.publish(REPO, shards | {"model.safetensors.index.json": INDEX.encode(), "model.pt": b"x"})
    found = find()
    assert {path.name: path.read_bytes() for path in found.weights} == shards
    assert "model.pt" not in hub.downloads()


def test_a_revision_is_a_branch_or_a_commit(hub):
    old = hub.publish(REPO, FILES | {"model.safetensors": b"old"})
    hub.publish(REPO, FILES)
    branch = hub.publish(REPO, FILES | {"model.safetensors": b"branch"}, branch="v2")
    assert find(revision=old).weights[0].read_bytes() == b"old"
    assert find(revision="v2").revision == branch
    assert find().weights[0].read_bytes() == FILES["model.safetensors"]


def test_a_repository_without_weights(hub):
    hub.publish(REPO, {"readme.md": b"", "sub/model.safetensors": b""})
    with pytest.raises(WeightsError, match=r"Hub repository \(commit \w+\) has no weight file.*found readme\.md"):
        find()


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
    monkeypatch.setattr(module, "_HUB_SECONDS", 0.5)
    commit = hub.publish(REPO, FILES)
    find()
    forget()
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
        # By path: the package would import LeRobot, which takes seconds.
        f"import runpy, sys; found = runpy.run_path({module.__file__!r})['resolve']({REPO!r}, flag='--x')\n"
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
