"""A program in the place of vLLM's server: its command line, its key, a child process, and a real model behind it.

`engine_environment` makes an environment whose ``python -m vllm.entrypoints.openai.api_server`` this is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FACTS, FAULT = "ENGINE_FACTS", "ENGINE_FAULT"


def engine_environment(folder: Path) -> Path:
    """An environment's folder, with an interpreter that finds a ``vllm``."""
    package = folder / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for part in (package, package.parent, package.parent.parent):
        (part / "__init__.py").touch()
    (package / "api_server.py").write_text("from tests.teachers.engine_program import main\n\nmain()\n")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site:{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "served-model-name", "host", "dtype", "logprobs-mode", "generation-config"):
        parser.add_argument(f"--{name}")
    for name in ("port", "max-model-len", "max-logprobs", "tensor-parallel-size", "max-num-seqs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--kv-transfer-config", type=json.loads)
    for name in ("enforce-eager", "enable-prefix-caching", "disable-uvicorn-access-log"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    fault = os.environ.get(FAULT, "")
    if facts := os.environ.get(FACTS):
        before = json.loads(Path(facts).read_text())["starts"] if Path(facts).exists() else 0
        told = {
            "starts": before + 1,
            "argv": sys.argv[1:],
            "pids": [os.getpid(), core.pid],
            "folder": os.getcwd(),
            "env": dict(os.environ),
        }
        Path(facts).write_text(json.dumps(told))
    if fault == "no memory":
        told = "ValueError: Free memory on device is less than desired GPU memory utilization"
        print(
            f"(EngineCore pid=7) ERROR 11-29 10:21:48 [core.py:1100] {told}\n" * 2
            + "  File server.py, line 1",
            flush=True,
        )
        sys.exit(1)
    if fault == "hangs":
        time.sleep(600)
    from tests.teachers.openai_server import Server
    from tests.teachers.server_faults import model_answer

    server = Server(
        model_answer(args.model), args.port, model=args.served_model_name, key=os.environ["VLLM_API_KEY"]
    )
    if fault.startswith("dies after"):
        threading.Thread(target=_die, args=(server, int(fault.split()[-1])), daemon=True).start()
    server.serve_forever()


def _die(server, requests: int) -> None:
    while len(server.bodies) < requests:
        time.sleep(0.01)
    print("torch.OutOfMemoryError: out of memory", flush=True)
    os._exit(1)
