"""A small Hub on this machine: repositories, commits, LFS uploads and downloads, as huggingface_hub's client speaks them.

It holds what it is sent in memory, and refuses as the Hub does: without a right token (401), with one of somebody else (403),
for a repository that the asker may not see (404), a card whose metadata is no YAML (400), an LFS object whose content is not
its sha256 (422). Endpoints: https://huggingface.co/docs/hub/api and git-lfs's batch API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

LFS = (".safetensors",)


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()


class Hub:
    """Tokens are names with ``hf_`` in front; who has one writes to the repositories under that name."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        self.state.asked.append(f"{self.command} {path}")
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return answer(self, body, **found.groupdict())
        self.reply(404, {"error": f"no such place: {path}"})

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def user(self) -> str | None:
        """Whose token came with the request."""
        found = re.fullmatch(r"Bearer hf_(\w+)", self.headers.get("Authorization", ""))
        return found[1] if found else None

    def reply(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if isinstance(content, dict) and "error" in content:
            headers["X-Error-Message"] = content["error"]
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def may_write(self, repo: str) -> bool:
        if self.user is None:
            self.reply(401, {"error": "Invalid username or password."})
        elif self.user != repo.partition("/")[0]:
            self.reply(403, {"error": "Forbidden: you do not have the rights to write there."})
        elif repo not in self.state.repositories and not self.path.startswith("/api/repos"):
            self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        else:
            return True
        return False

    def seen(self, repo: str) -> Repository | None:
        known = self.state.repositories.get(repo)
        if known is None or (known.private and self.user != repo.partition("/")[0]):
            self.reply(
                401 if self.user is None else 404,
                {"error": "Repository not found"},
                X_Error_Code="RepoNotFound",
            )
            return None
        return known


def create(asked: _Handler, body: bytes) -> None:
    known = json.loads(body)
    repo = f"{known.get('organization') or asked.user}/{known['name']}"
    if not asked.may_write(repo):
        return
    url = f"{asked.state.url}/{repo}"
    if repo in asked.state.repositories:
        return asked.reply(409, {"error": "You already created this model repo", "url": url})
    asked.state.repositories[repo] = Repository(
        known.get("visibility") == "private" or known.get("private", False)
    )
    asked.reply(200, {"url": url, "name": repo})


def validate(asked: _Handler, body: bytes) -> None:
    front = json.loads(body)["content"].split("---\n")[1]
    try:
        known = yaml.safe_load(front)
        errors = [] if isinstance(known.get("tags"), list) else [{"message": '"tags" must be an array'}]
    except yaml.YAMLError as error:
        errors = [{"message": str(error)}]
    asked.reply(400 if errors else 200, {"errors": errors, "warnings": []})


def preupload(asked: _Handler, body: bytes, repo: str) -> None:
    if asked.may_write(repo):
        files = json.loads(body)["files"]
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for f in files
        ]
        asked.reply(200, {"files": modes})


def batch(asked: _Handler, body: bytes, repo: str) -> None:
    if asked.may_write(repo):
        objects = [
            {**one, "actions": {"upload": {"href": f"{asked.state.url}/upload/{one['oid']}", "header": {}}}}
            for one in json.loads(body)["objects"]
        ]
        asked.reply(200, {"transfer": "basic", "objects": objects})


def upload(asked: _Handler, body: bytes, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
        return asked.reply(422, {"error": "the content is another"})
    asked.state.objects[oid] = body
    asked.reply(200)


def commit(asked: _Handler, body: bytes, repo: str) -> None:
    if not asked.may_write(repo):
        return
    known = asked.state.repositories[repo]
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            known.commits.append(value["summary"])
        elif line["key"] == "file":
            known.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            known.files[value["path"]] = asked.state.objects[value["oid"]]
    url = f"{asked.state.url}/{repo}/commit/{known.sha}"
    asked.reply(200, {"commitUrl": url, "commitOid": known.sha, "success": True})


def info(asked: _Handler, body: bytes, repo: str) -> None:
    if known := asked.seen(repo):
        files = [{"rfilename": name} for name in known.files]
        card = (
            yaml.safe_load(known.files["README.md"].decode().split("---\n")[1])
            if "README.md" in known.files
            else {}
        )
        asked.reply(
            200,
            {
                "id": repo,
                "modelId": repo,
                "sha": known.sha,
                "private": known.private,
                "siblings": files,
                "cardData": card,
            },
        )


def tree(asked: _Handler, body: bytes, repo: str) -> None:
    if known := asked.seen(repo):
        files = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in known.files.items()
        ]
        asked.reply(200, files)


def resolve(asked: _Handler, body: bytes, repo: str, name: str) -> None:
    if known := asked.seen(repo):
        if name not in known.files:
            return asked.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        content = known.files[name]
        etag = hashlib.sha256(content).hexdigest()
        asked.reply(200, content, ETag=f'"{etag}"', X_Repo_Commit=known.sha, X_Linked_Size=str(len(content)))


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("POST", rf"/api/models/{_REPO}/preupload/\w+", preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", batch),
    ("PUT", r"/upload/(?P<oid>[0-9a-f]{64})", upload),
    ("POST", rf"/api/models/{_REPO}/commit/\w+", commit),
    ("GET", rf"/api/models/{_REPO}(?:/revision/\w+)?", info),
    ("GET", rf"/api/models/{_REPO}/tree/\w+", tree),
    ("GET HEAD", rf"/{_REPO}/resolve/\w+/(?P<name>.+)", resolve),
)
