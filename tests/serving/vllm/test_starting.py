"""vLLM's server while it starts: what is said where it does not, and what is left where somebody ends the start."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lit_cartridges.command_line.ending import command
from lit_cartridges.runs.local_server import ServerError
from lit_cartridges.serving.running import ended_by_sigterm
from lit_cartridges.serving.vllm.server import VLLMServer
from lit_cartridges.serving.vllm.unloaded import UnloadedModel
from lit_cartridges.strategies.frozen_models import FrozenModel
from tests.serving.shelves import POCKET
from tests.teachers.engine_program import FACTS, FAULT, engine_environment


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a program in vLLM's place, whose fault the test names; `tmp_path / "tmp"` is the folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv(FACTS, str(tmp_path / "facts.json"))

    def start(fault: str) -> VLLMServer:
        monkeypatch.setenv(FAULT, fault)
        model = FrozenModel(setting="--model", name=POCKET, dtype="float32")
        python = str(engine_environment(tmp_path / "env") / "bin" / "python")
        return VLLMServer(
            *(python, model, UnloadedModel(model)),
            max_rows=4,
            max_cartridge_bytes=10**9,
            tensor_parallel_size=1,
            gpu_memory_utilization=0.9,
            max_model_len=None,
            options=[],
            start_timeout_s=60.0,
        )

    return start


def test_why_it_did_not_start_is_said_in_lines_that_can_be_read(start, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, command("lit-cartridges serve", []):
        start("no memory")
    first, *more = capsys.readouterr().err.splitlines()[-2:]
    assert ended.value.code == 2
    assert first.startswith(
        "lit-cartridges serve: vLLM ended with exit status 1 before it answered; its log is /"
    )
    assert "short of memory, change --gpu_memory_utilization" in first
    assert more == ["  ValueError: Free memory on device is less than desired GPU memory utilization"]
    (log,) = (path for path in (tmp_path / "tmp").rglob("*") if path.is_file())
    assert log.name == "vllm.log" and str(log) in first


def test_what_the_connector_says_is_all_that_is_said(start, monkeypatch):
    monkeypatch.setattr(VLLMServer, "_marked", lambda self: "speculative decoding is not served")
    with pytest.raises(ServerError, match=r"^speculative decoding is not served \(vLLM ended.*vllm.log\)$"):
        start("no memory")


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_nothing_is_left_of_a_start_that_is_ended(start, tmp_path, number, raised):
    facts = tmp_path / "facts.json"

    def end() -> None:
        until = time.monotonic() + 30
        while not facts.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=end).start()
    with pytest.raises(raised), ended_by_sigterm():
        start("hangs")
    assert not list((tmp_path / "tmp").iterdir())
    for pid in json.loads(facts.read_text())["pids"]:
        with suppress(FileNotFoundError):
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
