"""The Hub of ``server`` with the other half of its protocol: repositories are created, files are pushed."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.hub.server import LARGE, HubServer, _Handler

_PREUPLOAD = "/preupload/"
_COMMIT = "/commit/"
_BATCH = ".git/info/lfs/objects/batch"
_OBJECT = "/lfs/"
_VERIFY = "/lfs-verify"


@dataclass
class HubUploadServer(HubServer):
    """A Hub that can be pushed to; what is pushed can be downloaded right away.

    ``created`` has the repositories made by clients, ``commits`` the summary of every commit. A new repository has one
    commit with ``.gitattributes``, as on the Hub. Requests without a bearer token are refused where the Hub does.
    """

    created: list[str] = field(default_factory=list)
    commits: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> HubUploadServer:
        super().__enter__()
        self._server.RequestHandlerClass = type("UploadHandler", (_UploadHandler,), {"hub": self})
        return self

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Any) -> None:
        """As in the base class, and with an account; Xet, which has a protocol of its own, is switched off."""
        from huggingface_hub import constants, hf_api

        super().use(monkeypatch, cache)
        monkeypatch.setenv("HF_TOKEN", "x")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # The client behind the module-level functions, which PEFT uses, took its endpoint when it was imported.
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)

    def environment(self, home: Any) -> dict[str, str]:
        """Variables that point a process to this server, with an account and an empty cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "x",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def create(self, repo: str) -> bool:
        """Make a repository; False if there is one."""
        if self.knows(repo):
            return False
        self.created.append(repo)
        self.publish(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return True

    def files(self, repo: str) -> dict[str, bytes]:
        """What the main branch has."""
        found = self.find(repo, "main")
        return dict(found[1]) if found else {}


class _UploadHandler(_Handler):
    hub: HubUploadServer

    def do_POST(self) -> None:  # noqa: N802 (the standard library calls it by this name)
        self._receive()

    def do_PUT(self) -> None:  # noqa: N802 (the standard library calls it by this name)
        self._receive()

    def do_GET(self) -> None:  # noqa: N802 (the standard library calls it by this name)
        if urlsplit(self.path).path == "/api/whoami-v2":
            self.hub.requests.append("GET /api/whoami-v2")
            self._json(200, {"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token"}})
        else:
            super().do_GET()

    def _receive(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        line = f"{self.command} {path}"
        fault = self._arrived(line)
        if fault.hang:
            self.hub.wait_for_stop()
            self.close_connection = True
        elif fault.status:
            headers = {"X-Error-Code": fault.code} if fault.code else {}
            self._json(fault.status, {"error": f"fault {fault.status}"}, headers)
        elif self.command == "PUT" and path.startswith(_OBJECT):
            self._store(path.removeprefix(_OBJECT), body)
        elif path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif "authorization" not in self.headers:
            self._json(401, {"error": "Invalid username or password."})
        else:
            self._post(path, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(content)

    def _post(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(_BATCH):
            self._json(200, {"transfer": "basic", "objects": [self._offer(o) for o in json.loads(body)["objects"]]})
        elif path == _VERIFY:
            told = json.loads(body)
            held = len(self.hub.objects.get(told["oid"], b""))
            self._json(200 if held == told["size"] else 422, {"held": held})
        elif _PREUPLOAD in path:
            self._preupload(json.loads(body))
        elif _COMMIT in path:
            self._commit(*path.removeprefix("/api/models/").split(_COMMIT), body)
        else:
            self._json(404, {"error": f"no such endpoint: {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        status = 200 if self.hub.create(repo) else 409
        self._json(status, {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def _preupload(self, wanted: dict[str, Any]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        self._json(200, {"files": modes})

    def _offer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in self.hub.objects:
            return entry
        upload = {"href": f"{self.hub.url}{_OBJECT}{wanted['oid']}"}
        return entry | {"actions": {"upload": upload, "verify": {"href": f"{self.hub.url}{_VERIFY}"}}}

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            self._json(400, {"error": "the content is not what was announced"})
            return
        self.hub.objects[oid] = content
        self._json(200, {})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        if not (found := self.hub.find(repo, branch)):
            self._send_not_found(repo)
            return
        files = dict(found[1])
        summary = ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                summary = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile" and value["oid"] in self.hub.objects:
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                self._json(400, {"error": f"cannot commit {entry['key']} {value.get('path')}"})
                return
        commit = self.hub.publish(repo, files, branch)
        self.hub.commits.append((repo, summary))
        self._json(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _json(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self._send(status, body, {"Content-Type": "application/json"} | (headers or {}))
