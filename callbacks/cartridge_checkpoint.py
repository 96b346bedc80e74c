"""Checkpoints of a run (cartridge, optimizer, stream) and the cartridge as a folder of its own.

In ``folder`` (the trainer's root folder by default):
    checkpoints/last.ckpt, previous.ckpt, best.ckpt   to go on from; frozen weights are not in them
    cartridge/, cartridge-best/                       to load with `Cartridge.from_pretrained`

Checkpoints are taken between optimizer steps only. ``last.ckpt`` is written after all else that a save writes, so a run
that dies in between goes on from the save before, and repeats what is missing. The first Ctrl-C or SIGTERM (which a
cluster sends before it takes a node away) lets the current step finish and saves; a second Ctrl-C stops at once, and the
last checkpoint stands. Several processes decide together whether to save and whether to stop, whichever of them was told.
"""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lit_cartridges.cartridge_files.description import not_finite
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.runs.checkpoint_files import BEST, LAST, PREVIOUS, AtomicCheckpointIO
from lit_cartridges.runs.run_folder import RunFolder
from lit_cartridges.runs.run_settings import constructed
from lit_cartridges.settings import PositiveInt, WriteFolderName, checked

_log = logging.getLogger(__name__)


class CartridgeCheckpoint(Checkpoint):
    """Saves every ``every_n_steps`` optimizer steps, at the end, and on Ctrl-C; keeps other trainings out of the folder.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        monitor: logged figure that decides which checkpoint is the best.
        mode: "min" or "max" of it.
        folder: the run's folder; by default the trainer's ``default_root_dir``.

    Attributes:
        terminated: SIGTERM, to any of the processes, has stopped the run.
        interrupted: Ctrl-C or SIGTERM has.
    """

    @checked
    def __init__(
        self,
        *,
        every_n_steps: PositiveInt = 100,
        monitor: str = "train/loss",
        mode: Literal["min", "max"] = "min",
        folder: WriteFolderName | None = None,
    ) -> None:
        super().__init__()
        self.every_n_steps, self.monitor, self.mode = every_n_steps, monitor, mode
        self.folder = Path(folder) if folder else None
        self.best: float | None = None
        self._saved_step = -1
        self._io = AtomicCheckpointIO()
        self._held: RunFolder | None = None
        self.interrupted = self.terminated = False
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def state_key(self) -> str:
        """One such callback a run, whatever its settings."""
        return type(self).__name__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the run's folder, hold it for training, and write checkpoints atomically."""
        self.folder = self.folder or Path(trainer.default_root_dir)
        if stage == "fit":
            self.hold_folder(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = self._io

    def hold_folder(self, trainer: L.Trainer) -> None:
        """Keep other trainings out of the run's folder until this one ends.

        Raises:
            RunFolderError: another training uses it, or it cannot be written.
        """
        self.folder = self.folder or Path(trainer.default_root_dir)
        if trainer.is_global_zero and self._held is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = RunFolder(self.folder)
            folder.take()
            self._held = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM for as long as training lasts."""
        assert self.folder is not None
        self._saved_step = trainer.global_step
        # A run that does not go on from these replaces them: the one before its last is never another run's.
        mine = [(self.folder / "checkpoints" / name).resolve() for name in (LAST, PREVIOUS)]
        self._io.keeps_previous = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() in mine
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
        self.interrupted = told(self.interrupted, all=False)
        if self.interrupted:
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
        if trainer.global_step == trainer.max_steps:
            self.interrupted = self.terminated = False  # it came when nothing was left to stop
        if self.interrupted:
            _log.warning(
                "stopped at optimizer step %d; the same command goes on from there", trainer.global_step
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is saved after an error: the last checkpoint is the last good state."""
        self._release()
        self._let_go()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the folder to the next run."""
        self._let_go()

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far, and of what."""
        return {"best": self.best, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far, where that is the same figure."""
        mine = {"monitor": self.monitor, "mode": self.mode}
        if mine == {name: state_dict.get(name, mine[name]) for name in mine}:
            self.best = state_dict["best"]

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`."""
        return constructed(self, "checkpoint")

    def _save(self, trainer: L.Trainer, pl_module: Any) -> None:
        assert self.folder is not None
        if where := not_finite(pl_module.cartridge):
            raise FloatingPointError(
                f"after optimizer step {trainer.global_step} {where}; the last good checkpoint is kept. Lower "
                "model.learning_rate or set trainer.gradient_clip_val"
            )
        self._saved_step = trainer.global_step
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        figure = trainer.callback_metrics.get(self.monitor)
        # Each process has logged its own share: were they not to agree, one would write alone and wait for ever.
        value = None if figure is None else _mean_over_processes(trainer, figure)
        is_best = value is not None and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
        if is_best:
            self.best = value
            self._write(trainer, pl_module, BEST, "cartridge-best")
        self._write(trainer, pl_module, LAST, "cartridge")

    def _write(self, trainer: L.Trainer, pl_module: Any, checkpoint: str, cartridge: str) -> None:
        assert self.folder is not None
        checkpoints = self.folder / "checkpoints"
        if trainer.is_global_zero:
            loss = trainer.callback_metrics.get("train/loss")
            known = pl_module.cartridge.provenance
            pl_module.cartridge.provenance = replace(
                known, steps=trainer.global_step, loss=None if loss is None else float(loss)
            )
            pl_module.cartridge.save_pretrained(self.folder / cartridge)
            if not self._io.keeps_previous:
                (checkpoints / PREVIOUS).unlink(missing_ok=True)
        # Every process takes part: a sharded strategy writes its shards, and the stream's state is gathered.
        trainer.save_checkpoint(checkpoints / checkpoint)
        self._io.keeps_previous |= checkpoint == LAST

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self.interrupted and signum == signal.SIGINT:
            self._release()
            raise KeyboardInterrupt
        self.interrupted, self.terminated = True, signum == signal.SIGTERM
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        _log.warning(
            "%s: finishing this optimizer step and saving; press Ctrl-C (again) to stop at once", name
        )

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _mean_over_processes(trainer: L.Trainer, figure: Tensor) -> float:
    mean: Any = trainer.strategy.reduce(figure.detach().clone().float(), reduce_op="mean")
    return float(mean)
