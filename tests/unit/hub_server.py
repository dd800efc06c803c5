"""A stand-in of the Hugging Face Hub's HTTP interface, on loopback, for the Hub's own library."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_wholeversecret"


@dataclass
class Model:
    """A repository: its files of now by name, and how many commits there were."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def head(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """What the server holds, and what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, Model] = {}
        self.large: dict[str, bytes] = {}
        """Uploaded by the protocol of Git LFS, by SHA-256."""
        self.asked: list[str] = []
        self.knew = 0
        """Requests that came with the token."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            known = "license: nonsense" not in json.loads(body)["content"]
            errors = [] if known else [{"message": '"license" must be one of [mit, ...]'}]
            self._send({"errors": errors, "warnings": []}, 200 if known else 400)
        elif self.path == "/oauth/device":
            page = {"verification_uri": f"{self.server.address}/device", "expires_in": 60}
            self._send({"device_code": "1", "user_code": "AB-CD", "interval": 0, **page})
        elif self.path == "/oauth/token":
            self._send({"access_token": TOKEN})  # as if the person had agreed there
        elif not self._knows_who():
            self._send({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            assert name not in self.server.models
            self.server.models[name] = Model(asked.get("visibility") == "private")
            self._send({"url": f"{self.server.address}/{name}", "id": name})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send({"transfer": "basic", "objects": objects})
        else:
            name, what = self._parts(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
            model = self.server.models[name]
            if what == "preupload":
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for one in json.loads(body)["files"]
                ]
                self._send({"files": files})
            else:
                self._commit(name, model, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        (digest,) = self._parts(r"/lfs/(\w+)")
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.large[digest] = content
        self._send({})

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/api/whoami-v2" and self._knows_who():
            self._send({"name": "user", "type": "user"})
            return
        name = "/".join(self.path.removeprefix("/api/models").split("/")[1:3])
        model = self.server.models.get(name)
        if model is None or (model.private and not self._knows_who()):
            told = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._send({"error": "Repository not found"}, 404, told)
        elif self.path.startswith("/api/"):
            files = [{"rfilename": file} for file in model.files]
            self._send({"id": name, "sha": model.head, "private": model.private, "siblings": files})
        else:
            revision, file = self._parts(r"/[^/]+/[^/]+/resolve/(\w+)/(.+)")
            content = model.files[file]
            told = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            self._send(content, 200, told)

    do_HEAD = do_GET

    def _commit(self, name: str, model: Model, lines: list[dict[str, Any]]) -> None:
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, model.head):
            self._send({"error": "A commit has happened since"}, 412)
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                model.files[value["path"]] = self.server.large[value["oid"]]
            else:
                model.files[value["path"]] = base64.b64decode(value["content"])
        model.commits += 1
        url = f"{self.server.address}/{name}/commit/{model.head}"
        self._send({"commitUrl": url, "commitOid": model.head})

    def _parts(self, pattern: str) -> tuple[str, ...]:
        found = re.fullmatch(pattern, self.path)
        assert found, self.path
        return found.groups()

    def _knows_who(self) -> bool:
        known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.server.knew += known
        return known

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
