"""A hub of models on loopback: as much of the Hugging Face hub's protocol as its own client needs.

Repositories are folders. Small files come with the commit, large ones through LFS, as on the real one.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


@dataclass
class FakeHub:
    """What the hub has and was asked."""

    root: Path
    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def files(self, repository: str) -> dict[str, bytes]:
        folder = self.root / repository
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def commit(self, repository: str) -> str:
        """Hash of all files, which names the present state."""
        state = repr(sorted(self.files(repository).items())).encode()
        return hashlib.sha1(state).hexdigest()


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    """Serve the repositories below a folder until the end of the block."""
    hub = FakeHub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def _reply(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self._info(found[1])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            return self._reply(200, [_entry(*item) for item in self.hub.files(found[1]).items()])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(found[1], found[2])
        return self._reply(404, {"error": f"no {path}"})

    def _visible(self, repository: str) -> bool:
        known = (self.hub.root / repository).is_dir()
        return known and (self._may() or not self.hub.private.get(repository))

    def _info(self, repository: str) -> None:
        if not self._visible(repository):
            self._reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": name} for name in self.hub.files(repository)]
        commit = self.hub.commit(repository)
        self._reply(
            200, {"id": repository, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        )

    def _file(self, repository: str, name: str) -> None:
        file = self.hub.root / repository / name
        if not (self._visible(repository) and file.is_file()):
            self._reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._reply(200, content, ETag=tag, X_Repo_Commit=self.hub.commit(repository))

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        (self.hub.root / ".lfs").mkdir(exist_ok=True)
        (self.hub.root / ".lfs" / oid).write_bytes(self._body())
        self._reply(200)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if not self._may():
            return self._reply(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if re.search(r"/preupload/", path):
            return self._reply(200, {"files": [_mode(each) for each in json.loads(body)["files"]]})
        if path.endswith("/info/lfs/objects/batch"):
            return self._reply(200, self._batch(json.loads(body)))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            return self._commit(found[1], body)
        return self._reply(404, {"error": f"no {path}"})

    def _create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        folder = self.hub.root / repository
        if not folder.is_dir():
            folder.mkdir(parents=True)
            secret = wanted.get("private") or wanted.get("visibility") == "private"
            self.hub.private[repository] = bool(secret)
            return self._reply(200, {"url": f"{self.hub.address}/{repository}"})
        return self._reply(409, {"error": "exists", "url": f"{self.hub.address}/{repository}"})

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}", "header": {}}}}
            for each in wanted["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] not in ("file", "lfsFile"):
                continue
            target = self.hub.root / repository / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry["key"] == "file":
                target.write_bytes(base64.b64decode(value["content"]))
            else:
                target.write_bytes((self.hub.root / ".lfs" / value["oid"]).read_bytes())
        sha = self.hub.commit(repository)
        url = f"{self.hub.address}/{repository}/commit/{sha}"
        self._reply(200, {"commitOid": sha, "commitUrl": url, "success": True})


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": blob}


def _mode(wanted: dict[str, Any]) -> dict[str, Any]:
    large = wanted["path"].endswith(".safetensors")
    return {"path": wanted["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
