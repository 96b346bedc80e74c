"""``serve --engine vllm`` in a process of its own, and the vLLM server behind it, as nobody but its server knows it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.serving.server import Server, serving

_API = "vllm.entrypoints.openai.api_server"


@contextmanager
def started_vllm(folder: Path, tmp: Path, *options: str, vllm: Sequence[str]) -> Iterator[Server]:
    """
    Args:
        tmp: for its temporary files.
        vllm: options of vLLM's server.
    """
    python = os.environ.get("VLLM_PYTHON")
    assert python, "VLLM_PYTHON must name the interpreter of vLLM's environment; `make test-vllm` sets it"
    own = {"LIT_CARTRIDGES_VLLM": python, "TMPDIR": str(tmp), "VLLM_CPU_KVCACHE_SPACE": "1"}
    with serving(folder, "--vllm_options", json.dumps(list(vllm)), *options, env=own) as running:
        yield running


class Behind:
    """The vLLM server that a process has started."""

    def __init__(self, pid: int) -> None:
        (self.pid,) = [one for one in _descendants(pid) if _API in _words(one) and "-I" not in _words(one)]
        words = _words(self.pid)
        self.url = f"http://127.0.0.1:{words[words.index('--port') + 1]}"
        environment = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        (self.key,) = [
            one.partition(b"=")[2].decode() for one in environment if one.startswith(b"VLLM_API_KEY=")
        ]
        self._all = [self.pid, *_descendants(self.pid)]

    def ask(self, body: dict[str, Any], *, key: str | None = None) -> tuple[int, Any]:
        """``/v1/completions``: status and body."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.key}"}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a counter of vLLM's."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0] == name)

    def kill(self) -> None:
        """Its engine, and wait until its server has ended by itself."""
        for pid in _descendants(self.pid):
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while _words(self.pid) and time.monotonic() < until:
            time.sleep(0.1)

    def running(self) -> list[int]:
        """Processes of it that are left, after the moment in which the system buries those that were killed."""
        until = time.monotonic() + 10
        while (left := [pid for pid in self._all if _words(pid)]) and time.monotonic() < until:
            time.sleep(0.1)
        return left


def _words(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().strip("\0")
    except OSError:
        return []
    return words.split("\0") if words else []  # nothing of one that has ended and is not yet waited for


def _descendants(pid: int) -> list[int]:
    try:
        children = [
            int(one)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for one in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [one for child in children for one in (child, *_descendants(child))]
