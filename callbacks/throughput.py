"""How fast a run goes, and where its time goes: generating, training, the rest."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import lightning as L
import torch

from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.init.init_cost import resident_peak_bytes


class ThroughputMonitor(L.Callback):
    """Logs, over the steps since the last log:

    - ``speed/train_tokens_per_s``, ``speed/answer_tokens_per_s``: per second of training
    - ``speed/conversations_per_s``: per second of generating
    - ``time/generating_s``, ``time/training_s``, ``time/rest_s``: since the start, on this process
    - ``memory/peak_bytes``: of the GPU's allocator, or resident on the CPU; since the init began, where a run has one
    - ``stream/…``: what the stream has counted (conversations made, cut, …)

    and before the first step, ``init/seconds`` and ``init/peak_memory_bytes`` (`lit_cartridges.init.init_cost`).

    It must come before callbacks that take their time after a batch, or that counts as training.
    """

    def __init__(self) -> None:
        self.training_s = 0.0
        self._begun = self._batch_begun = 0.0
        self._tokens = self._answers = 0
        self._window_training_s = 0.0
        self._generated = (0.0, 0.0)
        self._last_batch: PackedBatch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the clock, before the first batch is fetched."""
        self._begun = perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What the init cost; a resumed run's cartridge comes from its checkpoint."""
        cost = getattr(pl_module, "init_cost", None)
        if cost is not None and trainer.global_step == 0:
            for logger in trainer.loggers:
                logger.log_metrics(cost.figures, step=0)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        """A batch has been fetched."""
        self._batch_begun = perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
    ) -> None:
        """Count, and log when it is time."""
        spent = perf_counter() - self._batch_begun
        self.training_s += spent
        self._window_training_s += spent
        self._tokens += sum(batch.lengths)
        self._answers += len(batch.target_rows)
        self._last_batch = batch
        every_n_steps = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if batch.stream_state is None or trainer.global_step % every_n_steps:
            return
        pl_module.log_dict({k: float(v) for k, v in self._figures(batch).items()}, batch_size=1)
        self._tokens = self._answers = 0
        self._window_training_s = 0.0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The totals, whatever step the run ended at; Lightning takes no `self.log` here, so the loggers get them."""
        if self._last_batch is not None:
            for logger in trainer.loggers:
                logger.log_metrics(self._figures(self._last_batch), step=trainer.global_step)

    def _figures(self, batch: PackedBatch) -> dict[str, float]:
        conversations = batch.counts.get("conversations", 0.0)
        generating_s = batch.counts.get("generating_s", 0.0)
        made, took = conversations - self._generated[0], generating_s - self._generated[1]
        self._generated = (conversations, generating_s)
        training_s = max(self._window_training_s, 1e-9)
        return {
            "speed/train_tokens_per_s": self._tokens / training_s,
            "speed/answer_tokens_per_s": self._answers / training_s,
            **({"speed/conversations_per_s": made / took} if took > 0 else {}),
            "time/generating_s": generating_s,
            "time/training_s": self.training_s,
            "time/rest_s": perf_counter() - self._begun - self.training_s - generating_s,
            "memory/peak_bytes": peak_bytes(),
            **{f"stream/{name}": value for name, value in batch.counts.items() if name != "generating_s"},
        }


def peak_bytes() -> float:
    """Most bytes held so far: by the GPU's allocator, or resident in this process (since the init was measured, if it was)."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resident_peak_bytes()
