"""A small Hugging Face Hub on loopback: enough of its protocol for the real client, and ways to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = (".safetensors", ".pt", ".bin")


@dataclass
class Fault:
    """What happens to requests whose "METHOD /path" contains ``match``, ``times`` times."""

    match: str
    status: int = 0
    code: str = ""
    cut_at: int | None = None  # Close the connection before this byte of the file.
    hang: bool = False  # Answer only when the server stops.
    trickle: bool = False  # Send a byte of an endless answer every now and then.
    times: float = float("inf")


@dataclass
class HubServer:
    """Model repositories served over HTTP, as a context manager.

    Large files are redirected to another path, as the Hub does with LFS files. ``requests`` records "METHOD /path" of
    every request, ``ranges`` the ``Range`` headers among them.
    """

    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    _branches: dict[tuple[str, str], str] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage_url(self) -> str:
        """Where large files are: on another host, or the client would follow the redirect when it asks about a file."""
        return f"{self.url.replace('127.0.0.1', 'localhost')}/large"

    def publish(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit ``files`` (all there are) to a branch; return the commit hash."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self._commits[repo, commit] = files
        self._branches[repo, branch] = commit
        return commit

    def downloads(self) -> list[str]:
        """Names of the files of which content was asked for, in order."""
        asked = [line.split("/resolve/")[1].split("/", 1)[1] for line in self.requests if "/resolve/" in line]
        return list(dict.fromkeys(asked))

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Any) -> None:
        """Point huggingface_hub, in this process, to this server and to an empty cache and account."""
        from huggingface_hub import close_session, constants

        close_session()  # It remembers the proxies of the time when it was opened.
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        point_client_to(self.url, monkeypatch)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self._branches.get((repo, revision), revision)
        return (commit, self._commits[repo, commit]) if (repo, commit) in self._commits else None

    def knows(self, repo: str) -> bool:
        return any(known == repo for known, _ in self._commits)

    def is_stopping(self, seconds: float) -> bool:
        return self._stopping.wait(seconds)

    def wait_for_stop(self) -> None:
        self._stopping.wait(30)


def point_client_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do for the imported huggingface_hub what HF_ENDPOINT does when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def closed_port() -> str:
    """Return the address of a server that has gone away."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest's output is no access log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _arrived(self, line: str) -> Fault:
        """Note a request, and use up one of the faults that it meets."""
        self.hub.requests.append(line)
        fault = next((fault for fault in self.hub.faults if fault.match in line and fault.times > 0), Fault(""))
        fault.times -= 1
        return fault

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        fault = self._arrived(line)
        if fault.trickle:
            self._trickle()
        elif fault.hang:
            self.hub.wait_for_stop()
            self.close_connection = True
        elif fault.status:
            self._send(fault.status, b"", {"X-Error-Code": fault.code} if fault.code else {})
        elif path.startswith("/api/models/"):
            repo, listing, commit = path.removeprefix("/api/models/").partition("/tree/")
            if listing:
                self._list(repo, commit.strip("/"))
                return
            repo, _, revision = repo.partition("/revision/")
            self._describe(repo, revision or "main")
        elif path.startswith("/large/"):
            commit, owner, model, name = path.removeprefix("/large/").split("/", 3)
            found = self.hub.find(f"{owner}/{model}", commit)
            self._send_file(found[1][name] if found else b"", {}, fault.cut_at)
        else:
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._resolve(repo, revision, name, fault.cut_at)

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**6))
        self.end_headers()
        while not self.hub.is_stopping(0.02):
            try:
                self.wfile.write(b" ")
            except OSError:
                break
        self.close_connection = True

    def _describe(self, repo: str, revision: str) -> None:
        if not (found := self.hub.find(repo, revision)):
            self._send_not_found(repo)
            return
        commit, files = found
        body = {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _list(self, repo: str, commit: str) -> None:
        if not (found := self.hub.find(repo, commit)):
            self._send_not_found(repo)
            return
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in found[1].items()
        ]
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, name: str, cut_at: int | None) -> None:
        if not (found := self.hub.find(repo, revision)):
            self._send_not_found(repo)
            return
        commit, files = found
        about = {"X-Repo-Commit": commit}
        if name not in files:
            self._send(404, b"", about | {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        if name.endswith(LARGE):
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(files[name]))}
            self._send(302, b"", about | linked | {"Location": f"{self.hub.storage_url}/{commit}/{repo}/{name}"})
        else:
            self._send_file(files[name], about | {"ETag": etag}, cut_at)

    def _send_not_found(self, repo: str) -> None:
        code = "RevisionNotFound" if self.hub.knows(repo) else "RepoNotFound"
        self._send(404, b"", {"X-Error-Code": code})

    def _send_file(self, content: bytes, headers: dict[str, str], cut_at: int | None) -> None:
        start = 0
        status = 200
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(status, content[start:], headers, None if cut_at is None else max(0, cut_at - start))

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut_after])
        if cut_after is not None:
            self.close_connection = True
