"""Runs jobs in one process or several: ``python -m tests.distributed.worker FOLDER`` once per rank."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_jobs(folder: Path, jobs: list[dict[str, Any]], *, world_size: int, limit_s: float = 900) -> None:
    """Every job in turn, in the same processes; each leaves ``FOLDER/NAME/rank-R.json``.

    Raises:
        AssertionError: a process failed or hangs; with the end of its log.
    """
    with started(folder, jobs, world_size=world_size) as workers:
        end = time.monotonic() + limit_s
        while time.monotonic() < end and all(worker.poll() in (None, 0) for worker in workers):
            if all(worker.poll() == 0 for worker in workers):
                return
            time.sleep(0.1)
        # The one that hangs waits for the one that failed: that one's log says why.
        bad = [rank for rank, worker in enumerate(workers) if worker.poll()] or list(range(world_size))
        logs = "\n".join(log_of(folder, rank)[-4000:] for rank in bad)
        raise AssertionError(f"processes {bad} of {world_size} failed or hang:\n{logs}")


@contextmanager
def started(
    folder: Path, jobs: list[dict[str, Any]], *, world_size: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process per rank, all of them ended at the end of the ``with``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with ExitStack() as stack:
        workers = []
        for rank, environment in enumerate(environments(world_size)):
            log = stack.enter_context((folder / f"log-{rank}.txt").open("w"))
            command = [sys.executable, "-m", "tests.distributed.worker", str(folder)]
            worker = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(worker.wait)
            stack.callback(worker.kill)
            workers.append(worker)
        yield workers


def log_of(folder: Path, rank: int) -> str:
    """What a process printed."""
    return (folder / f"log-{rank}.txt").read_text()


def results(folder: Path, job: str, world_size: int) -> list[dict[str, Any]]:
    """What each rank wrote."""
    return [json.loads((folder / job / f"rank-{rank}.json").read_text()) for rank in range(world_size)]


def environments(world_size: int) -> list[dict[str, str]]:
    """As a launcher would set it for each rank of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # DeepSpeed calls ninja
    }
    return [
        {**shared, "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world_size)}
        for rank in range(world_size)
    ]
