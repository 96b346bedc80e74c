"""A server of the run's own: waited for, or refused with its own words."""

from __future__ import annotations

import socket
import sys
import time
import urllib.request

import pytest

from lit_cartridges.runs import local_server
from lit_cartridges.runs.local_server import LocalServer, ServerError, free_port

# Answers on its port after a while: PORT DELAY_S.
SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
time.sleep(float(sys.argv[2]))
server.serve_forever()
"""


def started(tmp_path, program=SERVER, *arguments):
    return LocalServer(
        "the engine",
        lambda port: [sys.executable, "-c", program, str(port), *arguments],
        log=tmp_path / "log",
        grace_s=2.0,
    )


def test_it_is_waited_for_and_stopped(tmp_path, capsys):
    server = started(tmp_path, SERVER, "0.7")
    began = time.monotonic()
    server.wait(path="/health", limit_s=30)
    assert time.monotonic() - began > 0.4
    server.require_alive()
    assert "starting the engine" in capsys.readouterr().err
    with urllib.request.urlopen(f"{server.url}/health") as reply:
        assert reply.status == 200
    server.stop()
    with pytest.raises(ServerError, match="the engine has ended"):
        server.require_alive()


def test_one_that_ends_is_told_by_its_own_words(tmp_path):
    server = started(tmp_path, "import sys; print('no memory \\x07 left'); sys.exit(3)")
    with pytest.raises(
        ServerError, match=r"the engine ended with exit status 3 before(.|\n)*no memory \\x07 left"
    ):
        server.wait(path="/health", limit_s=30)


def test_one_that_does_not_answer_in_time_is_stopped(tmp_path):
    server = started(tmp_path, SERVER, "60")
    with pytest.raises(ServerError, match=r"did not answer within 1\.5 s"):
        server.wait(path="/health", limit_s=1.5)
    assert server.process.exit_status is not None


def test_a_port_that_was_taken_is_exchanged(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, free_port()])
        monkeypatch.setattr(local_server, "free_port", lambda: next(ports))
        server = started(tmp_path, SERVER, "0")
        server.wait(path="/health", limit_s=30)
        assert server.port != taken
        server.stop()


def test_a_proxy_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    server = started(tmp_path, SERVER, "0")
    server.wait(path="/health", limit_s=10)
    server.stop()
