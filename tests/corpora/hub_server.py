"""A server that speaks as much of the Hub's API as downloading a data set takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


def commit(revision: str) -> str:
    """Its hash, as the Hub would have one."""
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def hub(repositories: dict[str, dict[str, dict[str, bytes]]], gated: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a Hub with these data sets: name -> revision -> file -> content."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[0] == "api":
                parts = parts[1:]
            name = "/".join(parts[1:3])
            # datasets/OWNER/NAME, then revision/REVISION, or resolve/COMMIT/FILE
            what, revision, file = (
                (*parts[3:5], "/".join(parts[5:]))[:3] if len(parts) > 3 else ("revision", "main", "")
            )
            if name in gated:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif name not in repositories:
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif what == "revision" and revision not in repositories[name]:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif what == "revision":
                known = {
                    "id": name,
                    "sha": commit(revision),
                    "siblings": [{"rfilename": f} for f in repositories[name][revision]],
                }
                self._send(200, json.dumps(known).encode(), {}, body=body)
            else:
                files = next(known for at, known in repositories[name].items() if commit(at) == revision)
                content = files[file]
                headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
                self._send(200, content, headers, body=body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
            self.send_response(status)
            for header, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
