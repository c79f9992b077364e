"""Pretrained weights are found where they should be; what is wrong with a name or a folder is said."""

import json
from pathlib import Path

import pytest

from lerobot_atlasvla.weights.download import WeightsError, forget, resolve
from tests.helpers.hub.server import HubServer, closed_port, point_client_to

REPO = "someone/eyes"
FLAG = "--policy.vggt_model"
ADVICE = "or start from random weights with --policy.vggt_init=random"
INDEX = json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors", "c": "part-1.safetensors"}})
FILES = {"model.safetensors": b"weights" * 1000, "config.json": b"{}", "model.pt": b"other", "sub/x.bin": b"deep"}


pytestmark = pytest.mark.usefixtures("nothing_downloaded")


def find(name: str | Path = REPO, **options):
    return resolve(str(name), flag=FLAG, advice=ADVICE, **options)


def go_away(hub: HubServer, monkeypatch) -> None:
    point_client_to(closed_port(), monkeypatch)
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
