"""One rank of a training whose collectives and live bytes are counted: ``python -m tests.distributed.counting_worker FOLDER``.

Called by `test_network_bytes`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks._counters import Collectives, LiveBytes
from tests.tiny_run import new_data, new_module, new_trainer

# Smaller than Lightning's default, whose 1.6 GB would hide all else; one run has that default.
SMALL_BUCKETS = {"reduce_bucket_size": 1000}


class Phases(L.Callback):
    """Tells loading, generating and training apart, and counts the student's forward calls in each."""

    def __init__(self, collectives: Collectives, live: LiveBytes) -> None:
        self.collectives, self.live = collectives, live
        self.forward_calls: Counter[str] = Counter()
        self.batches: list[dict[str, Any]] = []
        self.peak_bytes: list[int] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.collectives.phase = "generating"
        pl_module.student.base_model.register_forward_pre_hook(self._count)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.collectives.phase = "training"
        self.live.peak = self.live.now
        self.batches.append({"lengths": batch.lengths, "answers": len(batch.target_rows)})

    def on_train_batch_end(self, *args: Any) -> None:
        self.collectives.phase = "generating"
        self.peak_bytes.append(self.live.peak)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.collectives.phase = "ending"

    def _count(self, *args: Any) -> None:
        self.forward_calls[self.collectives.phase] += 1


def run(job: dict[str, Any], folder: Path, world_size: int) -> dict[str, Any]:
    collectives, live = Collectives(), LiveBytes()
    phases = Phases(collectives, live)
    strategy: Any = job["strategy"]
    if strategy.startswith("zero"):
        from lit_cartridges.strategies import CartridgeDeepSpeedStrategy

        buckets: dict[str, Any] = {} if job["name"] == "zero1" else SMALL_BUCKETS
        strategy = CartridgeDeepSpeedStrategy(stage=int(strategy[-1]), **buckets)
    module = new_module(job["model"], num_tokens=job["num_tokens"], gradient_checkpointing=job["recompute"])
    trainer = new_trainer(
        folder, phases, strategy=strategy, devices=world_size, max_steps=3, use_distributed_sampler=False
    )
    with live, collectives:
        trainer.fit(module, new_data(job["corpus"], min_chunk_tokens=40, tokens_per_batch=80))
    return {
        "payload": [[*key, size] for key, size in collectives.payload.items()],
        "forward_calls": dict(phases.forward_calls),
        "batches": phases.batches,
        "peak_bytes": phases.peak_bytes,
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for job in json.loads((folder / "jobs.json").read_text()):
        result = run(job, folder / job["name"], world_size)
        (folder / job["name"]).mkdir(exist_ok=True)
        (folder / job["name"] / f"rank-{rank}.json").write_text(json.dumps(result))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
