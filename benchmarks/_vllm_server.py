"""A vLLM server on the CPU with the bundled model, started on a free port and ended again; for a benchmark and the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from lit_cartridges.pocket import model_path

NAME = "pocket"
MOST_LOGPROBS = 20


class VllmServer:
    """One server process with all of its children."""

    def __init__(
        self, *, python: str | Path, log: Path, port: int | None = None, dtype: str = "float32"
    ) -> None:
        """
        Args:
            python: the interpreter of vLLM's environment (tests/vllm/install.sh).
            log: file for all that it says.
            port: a free one by default.
            dtype: of weights and computation.
        """
        self.log, self.port = log, port or _free_port()

        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path())]
        command += [
            "--served-model-name",
            NAME,
            "--dtype",
            dtype,
            "--enforce-eager",
            "--max-logprobs",
            str(MOST_LOGPROBS),
        ]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--enable-prefix-caching"]
        environment = {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two servers would share a core, and leave the other idle
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with log.open("w") as out:
            # A session of its own, so that the engine, which is a child of the server, ends with it.
            self._process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=log.parent,
            )

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> int:
        """Completions that it has answered so far."""
        return self.log.read_text().count('"POST /v1/completions HTTP/1.1" 200')

    def wait(self, *, limit_s: float = 900.0) -> None:
        """Until it answers; on a busy machine that takes minutes.

        Raises:
            RuntimeError: it ended, or is not up in time; with the end of its log.
        """
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10):
                    return
            time.sleep(0.5)
        raise RuntimeError(
            f"the vLLM server on port {self.port} did not start (exit status {self._process.poll()}):\n"
            + self.log.read_text()[-4000:]
        )

    def kill(self) -> None:
        """At once and without a word, as a machine fails."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def stop(self, *, limit_s: float = 60.0) -> None:
        """As it should end."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
