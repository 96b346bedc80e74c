"""A vLLM server on the CPU with the bundled model, started on a free port and ended again; for a benchmark and the tests."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.pocket import model_path
from lit_cartridges.runs.local_server import HOST, LocalServer

NAME = "pocket"
MOST_LOGPROBS = 20


class VllmServer:
    """One server process with all of its children."""

    def __init__(self, *, python: str | Path, log: Path, dtype: str = "float32") -> None:
        """
        Args:
            python: the interpreter of vLLM's environment (tests/vllm/install.sh).
            log: file for all that it says.
            dtype: of weights and computation.
        """
        self.log = log
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path())]
        command += ["--served-model-name", NAME, "--dtype", dtype, "--enforce-eager"]
        command += ["--max-logprobs", str(MOST_LOGPROBS), "--host", HOST, "--enable-prefix-caching"]
        environment: dict[str, str | None] = {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two servers would share a core, and leave the other idle
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._server = LocalServer(
            "vLLM",
            lambda port: [*command, "--port", str(port)],
            log=log,
            environment=environment,
            folder=log.parent,
            grace_s=60.0,
        )

    @property
    def url(self) -> str:
        """Its base address."""
        return f"{self._server.url}/v1"

    @property
    def requests(self) -> int:
        """Completions that it has answered so far."""
        return self.log.read_text().count('"POST /v1/completions HTTP/1.1" 200')

    def wait(self, *, limit_s: float = 900.0) -> None:
        """Until it answers; on a busy machine that takes minutes. ServerError where it does not start."""
        self._server.wait(path="/health", limit_s=limit_s)

    def kill(self) -> None:
        """At once and without a word, as a machine fails."""
        self._server.process.kill()

    def stop(self) -> None:
        """As it should end."""
        self._server.stop()
