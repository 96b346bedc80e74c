"""The engine that hands jobs to vLLM: what it asks, and what it makes of the answer, the fault and the silence."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lit_cartridges.serving.choice import Chosen
from lit_cartridges.serving.job import EngineError, Token
from lit_cartridges.serving.vllm.engine import VLLMEngine, tokens_of
from lit_cartridges.serving.vllm.spool import mark_lost, spool_file
from lit_cartridges.serving.vllm.spooled_residents import SpooledResident
from tests.serving.test_engine import Asked


def event(index: int, ids: list[int], finish: str | None = None, logprobs=None) -> str:
    return json.dumps(
        {
            "choices": [
                {"index": index, "text": "", "token_ids": ids, "finish_reason": finish, "logprobs": logprobs}
            ]
        }
    )


class Script(BaseHTTPRequestHandler):
    """Answers with lines that a test has written; None is an end without a word, a number seconds of silence."""

    lines: ClassVar[list] = []
    status: ClassVar[int] = 200
    bodies: ClassVar[list] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append((self.path, self.headers["Authorization"], json.loads(data)))
        self.send_response(self.status)
        self.end_headers()
        for line in self.lines:
            if line is None:
                return
            if isinstance(line, float):
                time.sleep(line)
                continue
            self.wfile.write(f"data: {line}\n\n".encode() if self.status == 200 else line.encode())
            self.wfile.flush()

    def log_message(self, *args) -> None:
        pass


class Server:
    key, alive = "k3y", True

    def __init__(self) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Script)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Script, "lines", [])
    monkeypatch.setattr(Script, "bodies", [])
    monkeypatch.setattr(Script, "status", 200)
    running = Server()
    yield running
    running.http.shutdown()


@pytest.fixture
def engine(server):
    running = VLLMEngine(None, stop_token_ids=[2, 9], max_rows=8, max_kv_tokens=1000, server=server)
    running.start()
    yield running
    running.stop()
    running.join(10)
    assert not running.alive


def resident(**options) -> SpooledResident:
    return SpooledResident(key=(), prefix=([], []), nbytes=0, **options)


def test_a_cartridge_is_placeholders_a_salt_and_a_name(engine, server):
    Script.lines = [event(0, [5, 6]), event(0, [9], "stop"), "[DONE]"]
    asked = Asked(
        engine, [7, 8], resident(num_tokens=3, file=Path("spool/secret.safetensors")), max_new_tokens=4
    )
    assert asked.ids() == [[5, 6, 9]] and asked.over.wait(10)
    ((path, key, body),) = Script.bodies
    assert (path, key) == ("/v1/completions", "Bearer k3y")
    assert body["prompt"] == [2, 2, 2, 7, 8] and body["cache_salt"] == "secret"
    assert body["kv_transfer_params"] == {"lit_cartridge": "secret", "lit_cartridge_tokens": 3}
    assert body["temperature"] == 0 and body["max_tokens"] == 4 and body["ignore_eos"]
    assert body["stop_token_ids"] == [2, 9] and "prompt_logprobs" not in body and "echo" not in body


def test_what_nobody_reads_before_its_end_comes_in_larger_pieces(engine):
    Script.lines = [event(0, [9], "stop")]
    for at_once, interval in ((True, 1), (False, 32)):
        Asked(engine, [7], None, at_once=at_once).ids()
        assert Script.bodies[-1][2]["stream_interval"] == interval


def test_without_one_nothing_is_salted_and_a_corpus_is_text(engine):
    Script.lines = [event(0, [9], "stop")]
    for given, prompt in ((None, [7]), (resident(num_tokens=2, ids=[30, 31]), [30, 31, 7])):
        Asked(engine, [7], given).ids()
        body = Script.bodies[-1][2]
        assert body["prompt"] == prompt and not {"cache_salt", "kv_transfer_params"} & set(body)


def test_several_replies_are_asked_for_at_once_and_greedy_ones_are_one(engine):
    Script.lines = [event(1, [4]), event(0, [5]), event(0, [6], "length"), event(1, [9], "stop")]
    asked = Asked(engine, [7], None, n=2, temperature=0.7, top_p=0.0, seed=-3)
    assert asked.ids() == [[5, 6], [4, 9]]
    body = Script.bodies[-1][2]
    assert body["n"] == 2 and body["temperature"] == 0.7 and body["top_p"] > 0 and 0 <= body["seed"] < 2**62
    Script.lines = [event(0, [5]), event(0, [9], "stop")]
    assert Asked(engine, [7], None, n=3).ids() == [[5, 9]] * 3 and Script.bodies[-1][2]["n"] == 1


def test_log_probabilities_are_the_likeliest_and_no_more_than_asked_for():
    told = {
        "token_logprobs": [-3.0],
        "top_logprobs": [{"token_id:4": -3.0, "token_id:8": -0.5, "token_id:1": -1.0}],
    }
    chosen = Chosen(-3.0, ((8, -0.5), (1, -1.0)))
    assert tokens_of(event(0, [4], "stop", told), most=2) == [Token(0, 4, "stop", chosen)]
    assert tokens_of(event(0, [4], None, told), most=0) == [Token(0, 4, None, Chosen(-3.0, ()))]
    told["token_logprobs"] = [None]
    with pytest.raises(EngineError, match="no numbers"):
        tokens_of(event(0, [4], None, told), most=2)


@pytest.mark.parametrize(
    ("status", "lines", "told"),
    [
        (500, ['{"error": {"message": "no cartridge"}}'], "vLLM refuses: no cartridge"),
        (404, ["<html>"], "vLLM refuses: <html>"),
        (200, [event(0, [5]), '{"error": {"message": "lost blocks"}}'], "vLLM failed: lost blocks"),
        (200, [event(0, [5]), None], "before its end"),
        (200, [event(0, [], "abort")], "ended the reply with 'abort'"),
        (200, ["{"], "the engine failed: JSONDecodeError"),
    ],
)
def test_what_goes_wrong_is_told_to_the_one_that_asked(engine, status, lines, told):
    Script.status, Script.lines = status, lines
    asked = Asked(engine, [7], None)
    with pytest.raises(EngineError, match=told):
        asked.tokens()
    assert asked.over.wait(10) and engine.alive and engine.rows == engine.waiting == 0
    Script.status, Script.lines = 200, [event(0, [9], "stop")]
    assert Asked(engine, [7], None).ids() == [[9]]


def test_no_token_of_a_cartridge_that_a_worker_could_not_read_is_handed_on(engine, tmp_path):
    held = resident(num_tokens=3, file=spool_file(tmp_path, "a"))
    Script.lines = [event(0, [5]), 0.5, event(0, [6]), event(0, [9], "stop")]
    asked = Asked(engine, [7], held)
    assert asked.came.get(timeout=10)[0].token_id == 5
    mark_lost(tmp_path, "a")  # as after a preemption
    with pytest.raises(EngineError, match="cannot read the cartridge"):
        asked.tokens()


def test_a_job_that_is_let_go_gives_back_what_it_reads(engine):
    Script.lines = [event(0, [5]), 30.0]
    asked = Asked(engine, [7], None)
    assert asked.came.get(timeout=10)[0].token_id == 5 and engine.rows == 1
    engine.cancel(asked.job)
    assert asked.over.wait(10) and asked.came.empty() and engine.rows == 0
    engine.cancel(asked.job)
    for _ in range(20):  # also before it has begun
        asked = Asked(engine, [7], None)
        engine.cancel(asked.job)
        assert asked.over.wait(10)
    assert engine.waiting == 0


def test_its_end_is_everybodys(engine, server):
    Script.lines = [event(0, [5]), 30.0]
    asked = Asked(engine, [7], None)
    asked.came.get(timeout=10)
    engine.stop()
    with pytest.raises(EngineError, match="the server is stopping"):
        asked.tokens()
    assert asked.over.wait(10)
    with pytest.raises(EngineError, match="stopping"):
        Asked(engine, [7], None)


def test_a_server_that_has_ended_is_said(engine, server):
    server.alive = False
    assert not engine.alive
    with pytest.raises(EngineError, match="vLLM's server has ended"):
        Asked(engine, [7], None)
