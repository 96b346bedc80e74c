"""When a run is saved, and when it stops: `runs.saved_run` writes, `runs.stop_signals` listens, `runs.run_folder` locks.

Checkpoints are taken between optimizer steps only. The first Ctrl-C or SIGTERM lets the current step finish and saves; a
second Ctrl-C stops at once, and the last checkpoint stands. Several processes decide together whether to save and whether
to stop, whichever of them was told.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lit_cartridges.callbacks.card_notes import noted
from lit_cartridges.cartridge_files.description import not_finite
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.runs.run_folder import RunFolder
from lit_cartridges.runs.run_settings import constructed
from lit_cartridges.runs.saved_run import SavedRun
from lit_cartridges.runs.stop_signals import StopSignals
from lit_cartridges.settings import PositiveInt, WriteFolderName, checked

_log = logging.getLogger(__name__)


class CartridgeCheckpoint(Checkpoint):
    """Saves every ``every_n_steps`` optimizer steps, at the end, and on Ctrl-C; keeps other trainings out of the folder.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        monitor: logged figure that decides which checkpoint is the best.
        mode: "min" or "max" of it.
        folder: the run's folder; by default the trainer's ``default_root_dir``.
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
        self._signals = StopSignals()
        self._saved: SavedRun | None = None
        self._held: RunFolder | None = None

    @property
    def state_key(self) -> str:
        """One such callback a run, whatever its settings."""
        return type(self).__name__

    @property
    def interrupted(self) -> bool:
        """Ctrl-C or SIGTERM, to any of the processes, has stopped the run."""
        return self._signals.interrupted

    @property
    def terminated(self) -> bool:
        """SIGTERM has."""
        return self._signals.terminated

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the run's folder, hold it for training, and write checkpoints atomically."""
        self.folder = self.folder or Path(trainer.default_root_dir)
        if stage == "fit":
            self.hold_folder(trainer)
        self._saved = SavedRun(self.folder)
        self._saved.connect(trainer)

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

    def leave_folder(self) -> None:
        """The opposite."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM for as long as training lasts."""
        assert self._saved is not None
        self._saved_step = trainer.global_step
        self._saved.begin(trainer)
        self._signals.take()

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
        if self._signals.agree(trainer.strategy.reduce_boolean_decision):
            trainer.should_stop = True
            self._save(trainer, pl_module)
        elif trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save the end of the run and give Ctrl-C back."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, pl_module)
        elif self._saved is not None and trainer.is_global_zero:
            known = pl_module.cartridge.provenance
            # Of a cartridge that this run has saved, and measured since.
            if known.steps == trainer.global_step and (more := noted(trainer, pl_module)) != known:
                pl_module.cartridge.provenance = more
                self._saved.write_cartridge(trainer, pl_module)
        self._signals.give_back()
        if trainer.global_step == trainer.max_steps:
            self._signals.forget()
        if self.interrupted:
            _log.warning(
                "stopped at optimizer step %d; the same command goes on from there", trainer.global_step
            )

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Nothing is saved after an error: the last checkpoint is the last good state."""
        self._signals.give_back()
        self.leave_folder()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the folder to the next run."""
        self.leave_folder()

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
        assert self._saved is not None
        pl_module.finite_losses.require()
        if where := not_finite(pl_module.cartridge):  # no loss of this step says so
            raise FloatingPointError(
                f"after optimizer step {trainer.global_step} {where}; the last good checkpoint is kept. Lower "
                "model.learning_rate or set trainer.gradient_clip_val"
            )
        self._saved_step = trainer.global_step
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            pl_module.cartridge.provenance = noted(trainer, pl_module)
            self._saved.save(trainer, pl_module, best=self._is_best(trainer))

    def _is_best(self, trainer: L.Trainer) -> bool:
        """Whether the monitored figure is the best so far, which it then is."""
        figure = trainer.callback_metrics.get(self.monitor)
        if figure is None:
            return False
        # Each process has logged its own share: were they not to agree, one would write alone and wait for ever.
        value = _mean_over_processes(trainer, figure)
        if self.best is not None and (value >= self.best if self.mode == "min" else value <= self.best):
            return False
        self.best = value
        return True


def _mean_over_processes(trainer: L.Trainer, figure: Tensor) -> float:
    mean: Any = trainer.strategy.reduce(figure.detach().clone().float(), reduce_op="mean")
    return float(mean)
