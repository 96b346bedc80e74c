"""A real HTTP server that speaks vLLM's dialect of the completions API and has faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

VOCABULARY, END = 50, 49


def logprobs_after(ids):
    """The server's model: log-probabilities of the next token, from the sum of all ids before it."""
    scores = np.random.default_rng(sum(ids)).normal(size=VOCABULARY) * 3
    return scores - np.log(np.exp(scores).sum())


def reply_to(body):
    ids, new, rows, rng = list(body["prompt"]), [], [], np.random.default_rng(body["seed"])
    while len(new) < body["max_tokens"] and (not new or new[-1] not in body["stop_token_ids"]):
        row = logprobs_after(ids)
        new.append(int(np.argmax(row + rng.gumbel(size=VOCABULARY) * body["temperature"])))
        ids.append(new[-1])
        # As vLLM does: the sampled token first, then the top k, so k or k + 1 entries.
        best = [new[-1], *np.argsort(-row)[: body["logprobs"]].tolist()]
        rows.append({f"token_id:{i}": float(row[i]) for i in best})
    choice = {
        "index": 0,
        "text": "…",
        "finish_reason": "stop" if new[-1] in body["stop_token_ids"] else "length",
        "logprobs": {"tokens": [f"token_id:{i}" for i in new], "top_logprobs": rows},
    }
    if body["return_token_ids"]:
        choice["token_ids"] = new
    return {"choices": [choice]}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer, port=0, *, model="m", key=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.key = model, key
        self.answer, self.faults = answer, deque()
        self.bodies, self.headers, self.times = [], [], []
        self.delay_s, self.now, self.most, self.lock = 0.0, 0, 0, threading.Lock()
        self.alter = lambda reply: reply
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, body):
        """What goes wrong with this request: a name, (status, headers), a function of the reply, or None."""
        return self.faults.popleft() if self.faults else None

    def stop(self):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that went away is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def lets_in(self):
        """As vLLM does: the key is asked for below /v1."""
        key = self.server.key
        if (
            key is None
            or not self.path.startswith("/v1")
            or self.headers.get("Authorization") == f"Bearer {key}"
        ):
            return True
        self.send(401, b'{"error": "Unauthorized"}')
        return False

    def do_GET(self):
        if self.lets_in():
            self.send(200, json.dumps({"data": [{"id": self.server.model}]}).encode())

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.lets_in():
            return
        with server.lock:
            server.bodies.append(body)
            server.headers.append((self.path, self.headers.get("Authorization")))
            server.times.append(time.monotonic())
            fault = server.next_fault(body)
            server.now += 1
            server.most = max(server.most, server.now)
        time.sleep(server.delay_s)
        with server.lock:
            server.now -= 1
        if fault == "hang":
            server.closing.wait(60.0)
            self.close_connection = True
        elif isinstance(fault, tuple):
            self.send(fault[0], b'{"error": "max_logprobs"}', fault[1])
        elif fault == "no json":
            self.send(200, b"<html>")
        else:
            content = json.dumps(
                (server.alter if fault in (None, "cut", "truncated") else fault)(server.answer(body))
            )
            if fault == "truncated":
                self.send(200, content[: len(content) // 2].encode())
            else:
                self.send(200, content.encode(), cut=fault == "cut")

    def send(self, status, content, headers=(), *, cut=False):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection |= cut


def start(answer=reply_to):
    server = Server(answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server
