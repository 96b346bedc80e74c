"""How vLLM's server is started: by which interpreter, with which options, in which environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lit_cartridges.errors import SettingError
from lit_cartridges.runs.local_server import HOST

if TYPE_CHECKING:
    from lit_cartridges.strategies.frozen_models import FrozenModel

PYTHON_VARIABLE = "LIT_CARTRIDGES_VLLM"
SERVED_NAME = "teacher"
_MODULE = "vllm.entrypoints.openai.api_server"
# A folder of that name would be found too, as a package without a file of its own.
_FINDS_VLLM = "import sys, importlib.util; s = importlib.util.find_spec('vllm'); sys.exit(s is None or s.origin is None)"
_ASKED_BY = "data.source.teacher.python"
# What the teacher says itself, and secrets, which a recorded setting must not hold.
_OURS = (
    *("model", "tokenizer", "revision", "tokenizer-revision", "served-model-name", "host", "port", "uds", "api-key"),
    *("dtype", "max-model-len", "max-logprobs", "logprobs-mode", "generation-config", "tensor-parallel-size", "tp"),
    *("gpu-memory-utilization", "device-memory-utilization", "trust-remote-code", "hf-token", "config", "root-path"),
)  # fmt: skip


def vllm_python(given: str | None, *, asked_by: str = _ASKED_BY) -> str:
    """The interpreter that has vLLM: the given one, the environment variable's, or this one.

    Args:
        asked_by: the setting that holds ``given``.

    Raises:
        SettingError: there is none, or vLLM is not in its environment.
    """
    install = (
        "install vLLM in an environment of its own (python -m venv vllm-env; vllm-env/bin/pip install vllm) and name its "
        f"interpreter by {asked_by} or {PYTHON_VARIABLE}"
    )
    own, named = asked_by.rpartition(".")[2].lstrip("-"), given or os.environ.get(PYTHON_VARIABLE)
    if named is None:
        if (found := find_spec("vllm")) is None or found.origin is None:
            raise SettingError(f"vLLM is not installed beside lit_cartridges; {install}", {own: None})
        return sys.executable
    setting = {own if given else PYTHON_VARIABLE: named}
    path = Path(named).expanduser().absolute()  # not resolved: a link is what makes it the environment's
    path = path / "bin" / "python" if path.is_dir() else path
    if not os.access(path, os.X_OK) or path.is_dir():
        raise SettingError(f"is no interpreter; {install}", setting)
    with tempfile.TemporaryDirectory() as nowhere:  # `python -c` looks for modules in its folder
        looked = subprocess.run(
            [path, "-c", _FINDS_VLLM], cwd=nowhere, env=other_python(path), capture_output=True, check=False
        )
    if looked.returncode:
        raise SettingError(f"has no vllm in its environment; {install}", setting)
    return str(path)


def other_python(path: str | Path) -> dict[str, str]:
    """This process's environment without what is meant for its own interpreter, where ``path`` is another."""
    own = () if str(path) == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in own}


def require_free_options(
    options: Sequence[str], *, more: Sequence[str] = (), whose: str = "teacher", setting: str = "options"
) -> None:
    """
    Args:
        more: names that are not free either.
        setting: that holds ``options``.

    Raises:
        SettingError: one of them is set by the teacher's own settings, or is none.
    """
    for option in options:
        name = option.split("=")[0].lstrip("-").replace("_", "-")
        if option.startswith("-") and any(
            own == name or (len(name) > 3 and own.startswith(name)) for own in (*_OURS, *more)
        ):
            raise SettingError(
                f"{option.split('=')[0]} is the {whose}'s own to say, by its settings, its model, or a variable of the "
                "environment (HF_TOKEN); leave it out",
                {setting: [option.split("=")[0]]},
            )
    if options and not re.match("--?[A-Za-z]", options[0]):
        raise SettingError("must begin with an option such as --enforce-eager", {setting: list(options)})


def visible_devices(devices: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for the engine; ``devices`` count as this run does, among those that it sees.

    Raises:
        SettingError: this run does not see such a device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not devices or len(set(devices)) < len(devices) or not all(0 <= device < count for device in devices):
        seen = f"CUDA devices 0 to {count - 1}" if count else "no CUDA device"
        raise SettingError(
            f"must be different numbers among what this run sees: {seen}", devices=list(devices)
        )
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(names[device] if names else str(device) for device in devices)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One server's settings; see `VLLM` for most.

    Args:
        model: the frozen model by name.
        dtype: a dtype's name.
        max_logprobs: the most that is asked for.
        key: for its clients.
    """

    python: str
    model: FrozenModel
    dtype: str
    max_model_len: int
    max_logprobs: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    devices: Sequence[int] | None
    options: Sequence[str]
    key: str

    def command(self, port: int) -> list[str]:
        """The server's command line; what the user added stands first, so that ours holds."""
        source, revision = served_files(self.model)
        revisions = ["--revision", revision, "--tokenizer-revision", revision] if revision else []
        return [
            *(self.python, "-m", _MODULE, *self.options),
            *("--model", source, *revisions),
            *("--served-model-name", SERVED_NAME),
            *("--host", HOST, "--port", str(port)),
            *("--dtype", self.dtype),
            *("--max-model-len", str(self.max_model_len)),
            *("--max-logprobs", str(self.max_logprobs)),
            *("--logprobs-mode", "raw_logprobs"),
            *("--generation-config", "vllm"),
            *("--gpu-memory-utilization", str(self.gpu_memory_utilization)),
            *("--tensor-parallel-size", str(self.tensor_parallel_size)),
            *(["--trust-remote-code"] if self.model.trust_remote_code else []),
        ]

    def environment(self) -> dict[str, str | None]:
        """Changes to this process's: secrets go this way, since every user of the machine may read a command line."""
        changes: dict[str, str | None] = {"VLLM_API_KEY": self.key}
        if self.python != sys.executable:
            changes |= {"PYTHONPATH": None, "PYTHONHOME": None}
        if self.model.token is not None:
            changes["HF_TOKEN"] = self.model.token
        if self.devices is not None:
            changes["CUDA_VISIBLE_DEVICES"] = visible_devices(self.devices)
        # On the CPU: cores are the training's too. And nothing is reported to anybody.
        defaults = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        return changes | {name: os.environ.get(name, value) for name, value in defaults.items()}


def served_files(
    model: FrozenModel, *, instead: str = "let data.source.teacher be LocalTeacher: VLLM serves plain models"
) -> tuple[str, str | None]:
    """Folder or Hub name of a model, and its revision there, for a server that shall serve the same weights.

    Args:
        instead: what else the user may do.

    Raises:
        SettingError: it is not a plain model's.
    """
    what = None
    place = model.place()
    if place.adapter is not None:
        what = "is a PEFT adapter; merge it into its base and save that"
    elif (
        model.quantization_config is not None
        or getattr(model.config(), "quantization_config", None) is not None
    ):
        what = (
            "has quantised weights, which an engine computes in another way; give a model in full precision"
        )
    if what is not None:
        raise SettingError(
            f"{what}, or {instead}",
            {model.setting: model.name},
        )
    # The server runs in another folder; and of the Hub it shall take the very commit that this run reads.
    folder = Path(place.source)
    return (
        (str(folder.absolute()), None) if folder.is_dir() else (place.source, place.commit or place.revision)
    )
