"""What a job's tasks tell the test about their steps, and where the test may meet them in the middle of a run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from lit_cartridges.callbacks import CartridgeCheckpoint


class Watch(L.Callback):
    """Keeps the loss of every step, by task and attempt, and holds chosen attempts at a step.

    Args:
        folder: for ``losses-RANK.jsonl``, one line per step, and ``held-ATTEMPT``, which has the holding task's process.
        hold: attempt -> [step, rank]: that task waits before that optimizer step, counted from 0, until SIGTERM or
            SIGKILL comes. The other tasks wait for it in their next exchange.
    """

    def __init__(self, *, folder: str, hold: dict[int, list[int]] | None = None) -> None:
        self.folder, self.hold = Path(folder), hold or {}
        self.attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0"))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if [trainer.global_step, trainer.global_rank] != self.hold.get(self.attempt):
            return
        held = self.folder / f"held-{self.attempt}"
        held.with_suffix(".tmp").write_text(str(os.getpid()))
        held.with_suffix(".tmp").replace(held)
        checkpoint = next(c for c in trainer.callbacks if isinstance(c, CartridgeCheckpoint))
        while not checkpoint.terminated:
            time.sleep(0.05)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        line = {"attempt": self.attempt, "step": trainer.global_step, "loss": float(outputs["loss"])}
        with (self.folder / f"losses-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_losses(folder: Path, rank: int) -> list[dict[str, Any]]:
    path = folder / f"losses-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
