"""Checkpoints of a run (cartridge, optimizer, stream) and the cartridge as a folder of its own.

In ``folder`` (the trainer's root folder by default):
    checkpoints/last.ckpt, checkpoints/best.ckpt   to go on from; frozen weights are not in them
    cartridge/, cartridge-best/                    to load with `Cartridge.from_pretrained`

Checkpoints are taken between optimizer steps only. The first Ctrl-C or SIGTERM (which a cluster sends before it takes
a node away) lets the current step finish and saves; a second Ctrl-C stops at once, and the last checkpoint stands.
Several processes decide together whether to save and whether to stop, whichever of them was told.
"""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lit_cartridges.data.batch import PackedBatch

_log = logging.getLogger(__name__)


class CartridgeCheckpoint(Checkpoint):
    """Saves every ``every_n_steps`` optimizer steps, at the end, and on Ctrl-C.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        monitor: logged figure that decides which checkpoint is the best.
        mode: "min" or "max" of it.
        folder: the run's folder; by default the trainer's ``default_root_dir``.

    Attributes:
        terminated: SIGTERM, to any of the processes, has stopped the run.
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 100,
        monitor: str = "train/loss",
        mode: str = "min",
        folder: str | None = None,
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} must be at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r} must be 'min' or 'max'")
        self.every_n_steps, self.monitor, self.mode = every_n_steps, monitor, mode
        self.folder = Path(folder) if folder else None
        self.best: float | None = None
        self._saved_step = -1
        self._interrupted = self.terminated = False
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def state_key(self) -> str:
        """One such callback a run, whatever its settings."""
        return type(self).__name__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the run's folder."""
        self.folder = self.folder or Path(trainer.default_root_dir)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM for as long as training lasts."""
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
    ) -> None:
        """Save where a checkpoint is due."""
        if batch.stream_state is None or trainer.global_step == self._saved_step:
            return
        told = trainer.strategy.reduce_boolean_decision
        self._interrupted = told(self._interrupted, all=False)
        if self._interrupted:
            self.terminated = told(self.terminated, all=False)
            trainer.should_stop = True
            self._save(trainer, pl_module)
        elif trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run and give Ctrl-C back."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, pl_module)
        self._release()
        if self._interrupted:
            _log.warning(
                "stopped at optimizer step %d; the same command goes on from there", trainer.global_step
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is saved after an error: the last checkpoint is the last good state."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self.best = state_dict["best"]

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self.folder is not None
        self._saved_step = trainer.global_step
        figure = trainer.callback_metrics.get(self.monitor)
        # Each process has logged its own share: were they not to agree, one would write alone and wait for ever.
        value = None if figure is None else _mean_over_processes(trainer, figure)
        is_best = value is not None and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
        if is_best:
            self.best = value
        self._write(trainer, pl_module, "last", "cartridge")
        if is_best:
            self._write(trainer, pl_module, "best", "cartridge-best")

    def _write(self, trainer: L.Trainer, pl_module: Any, checkpoint: str, cartridge: str) -> None:
        assert self.folder is not None
        # Every process takes part: a sharded strategy writes its shards, and the stream's state is gathered.
        trainer.save_checkpoint(self.folder / "checkpoints" / f"{checkpoint}.ckpt")
        if trainer.is_global_zero:
            loss = trainer.callback_metrics.get("train/loss")
            known = pl_module.cartridge.provenance
            pl_module.cartridge.provenance = replace(
                known, steps=trainer.global_step, loss=None if loss is None else float(loss)
            )
            pl_module.cartridge.save_pretrained(self.folder / cartridge)

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self._interrupted and signum == signal.SIGINT:
            self._release()
            raise KeyboardInterrupt
        self._interrupted, self.terminated = True, signum == signal.SIGTERM
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        _log.warning(
            "%s: finishing this optimizer step and saving; press Ctrl-C (again) to stop at once", name
        )

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _mean_over_processes(trainer: L.Trainer, figure: Tensor) -> float:
    mean: Any = trainer.strategy.reduce(figure.detach().clone().float(), reduce_op="mean")
    return float(mean)
