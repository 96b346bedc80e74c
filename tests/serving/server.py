"""The real command in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_S = 120.0


class Server:
    """A server that runs.

    Attributes:
        url: up to the port.
    """

    def __init__(self, process: subprocess.Popen[str], url: str, told: list[str]) -> None:
        self.process, self.url, self.told = process, url, told

    def ask(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and body, as JSON where it is that; ``body`` may be bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()

    def end(self, number: int = signal.SIGTERM, *, timeout_s: float = 30.0) -> tuple[int, float, str]:
        """By a signal: the status, the seconds it took, and what stands on stderr."""
        begun = time.monotonic()
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, time.monotonic() - begun, told


@contextmanager
def serving(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """``lit-cartridges serve FOLDER --port 0 …``, ended in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_cartridges.cli", "serve", str(folder), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    try:
        assert process.stdout is not None
        told, until = [process.stdout.readline()], time.monotonic() + _START_S
        found = re.match(r"serving (http://\S+)/v1 ", told[0])
        if found is None or time.monotonic() > until:
            process.kill()
            raise AssertionError(told[0] + process.communicate()[1])
        yield Server(process, found[1], told)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
