"""vLLM's server behind ours: found, its version checked, started with the connector, and ended."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lit_cartridges
from lit_cartridges.errors import SettingError
from lit_cartridges.provenance import Fingerprint
from lit_cartridges.runs.local_server import LocalServer, ServerError
from lit_cartridges.serving.vllm.unloaded import UnloadedModel
from lit_cartridges.strategies.frozen_models import FrozenModel
from lit_cartridges.teachers.vllm_engine import Engine, other_python, require_free_options, vllm_python

_log = logging.getLogger(__name__)
OLDEST, BELOW = (0, 32), (0, 33)  # the connector's interface changes with vLLM's releases
_RANGE = "vllm>=0.32,<0.33"
_VERSION = (
    "import importlib.util, os, runpy; where = os.path.dirname(importlib.util.find_spec('vllm').origin); "
    "print(runpy.run_path(os.path.join(where, '_version.py'))['__version__'])"
)
_OURS = (
    *("kv-transfer-config", "max-num-seqs", "enable-prefix-caching", "no-enable-prefix-caching", "middleware"),
    *("hf-overrides", "quantization"),
)  # fmt: skip
_CONNECTOR = "lit_cartridges.serving.vllm.connector"
_MARK = "lit_cartridges:"
_MOST_LOGPROBS = 20
_MEND = (
    "short of memory, change --gpu_memory_utilization or --max_model_len; short of time, --start_timeout_s; --engine local needs "
    "no vLLM"
)
_AUTO = -1  # as many positions as the memory holds
_ANSWER_S = 30.0


def require_options(options: Sequence[str]) -> None:
    """Raise SettingError where an option of vLLM's is the server's own to say."""
    require_free_options(options, more=_OURS, whose="server", setting="vllm_options")


def found_vllm(python: str | None) -> tuple[str, str]:
    """Interpreter and version of the vLLM that would be started.

    Raises:
        SettingError: there is none, or another version than this connector was tested with.
    """
    path = vllm_python(python, asked_by="--vllm_python")
    with tempfile.TemporaryDirectory() as nowhere:
        asked = [path, "-c", _VERSION]
        said = subprocess.run(asked, cwd=nowhere, env=other_python(path), capture_output=True, check=False)
    version = said.stdout.decode(errors="replace").strip()
    try:
        known = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        known = ()
    if not OLDEST <= known < BELOW:
        raise SettingError(
            f"has vLLM {version or 'of no version that it tells'}, and cartridges are served by {_RANGE}: install that, or take "
            "--engine local",
            vllm_python=path,
        )
    return path, version


class VLLMServer:
    """Runs from here on; `stop` ends it.

    Args:
        max_rows: replies that vLLM writes at once.
        max_cartridge_bytes: of the cartridges that each of its workers keeps open.
        options: further options of vLLM's server.
        max_model_len: positions; None for as many as the model has and the memory holds.

    Attributes:
        spool: folder of the cartridges that its workers read.
        max_model_len: positions of a prompt, cartridge included, and its reply.

    Raises:
        ServerError: it does not start, with what it said.
    """

    def __init__(
        self,
        python: str,
        model: FrozenModel,
        unloaded: UnloadedModel,
        *,
        max_rows: int,
        max_cartridge_bytes: int,
        tensor_parallel_size: int,
        gpu_memory_utilization: float,
        max_model_len: int | None,
        options: Sequence[str],
        start_timeout_s: float,
    ) -> None:
        self.key = secrets.token_urlsafe(24)
        self.folder = Path(tempfile.mkdtemp(prefix="lit_cartridges_serve_"))
        self.spool, code = self.folder / "cartridges", self.folder / "code"
        self.spool.mkdir()
        code.mkdir()
        # Of what is installed beside us, vLLM's processes see this package alone.
        (code / "lit_cartridges").symlink_to(Path(lit_cartridges.__file__).parent)
        shape = Fingerprint.of_config(unloaded.config)
        connector = {
            "folder": str(self.spool),
            "max_bytes": max_cartridge_bytes,
            "num_layers": shape.num_layers,
            "num_kv_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
        }
        engine = Engine(
            python=python,
            model=model,
            dtype=unloaded.dtype_name,
            max_model_len=_AUTO if max_model_len is None else max_model_len,
            max_logprobs=_MOST_LOGPROBS,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            devices=None,
            options=[*options, *_own_options(connector, max_rows)],
            key=self.key,
        )
        environment = engine.environment() | {"PYTHONPATH": str(code)}
        try:
            self._server = LocalServer(
                "vLLM",
                engine.command,
                log=self.folder / "vllm.log",
                environment=environment,
                folder=self.folder,
            )
            self._server.wait(path="/health", limit_s=start_timeout_s)
            self.url = self._server.url
            self.max_model_len = self._told_length()
        except ServerError as error:
            marked = self._marked()
            self._end(keep_log=True)
            if marked:
                raise ServerError(f"{marked} ({error.headline})") from None
            raise ServerError(f"{error.headline}; {_MEND}", details=error.details) from None
        except BaseException:
            self._end(keep_log=False)
            raise

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._server.process.exit_status is None

    def stop(self) -> None:
        """End it with all that it started; its log stays where it had ended by itself."""
        if died := not self.alive:
            _log.warning("vLLM's server had ended; its log: %s", self.folder / "vllm.log")
        self._end(keep_log=died)

    def _end(self, *, keep_log: bool) -> None:
        if (server := getattr(self, "_server", None)) is not None:
            server.stop()
        for folder in (self.spool, self.folder / "code") if keep_log else (self.folder,):
            shutil.rmtree(folder, ignore_errors=True)

    def _told_length(self) -> int:
        request = urllib.request.Request(
            f"{self.url}/v1/models", headers={"Authorization": f"Bearer {self.key}"}
        )
        # A proxy that the environment names knows nothing of this machine's own ports.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_ANSWER_S) as answer:
            listed: Any = json.load(answer)
        return int(listed["data"][0]["max_model_len"])

    def _marked(self) -> str:
        """What the connector said, which vLLM's own last words do not repeat."""
        lines = self._server.process.tail(2000).splitlines()
        said = [line.partition(_MARK)[2].strip() for line in lines if _MARK in line]
        return said[0] if said else ""


def _own_options(connector: dict[str, Any], max_rows: int) -> list[str]:
    config = {
        "kv_connector": "CartridgeConnector",
        "kv_connector_module_path": _CONNECTOR,
        "kv_role": "kv_consumer",
        # Another policy would compute the placeholders as if they were text.
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": connector,
    }
    return [
        *("--kv-transfer-config", json.dumps(config)),
        *("--enable-prefix-caching", "--max-num-seqs", str(max_rows)),
        "--disable-uvicorn-access-log",  # which would grow without end
    ]
