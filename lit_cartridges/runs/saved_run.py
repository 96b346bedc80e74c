"""What a save writes: the cartridge as a folder of its own, then a checkpoint to go on from.

    checkpoints/last.ckpt, previous.ckpt, best.ckpt   to go on from; frozen weights are not in them
    cartridge/, cartridge-best/                       to load with `Cartridge.from_pretrained`

``last.ckpt`` is the last of all files, so a run that dies in between goes on from the save before, and repeats what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import WeightAveraging

from lit_cartridges.runs.checkpoint_files import BEST, LAST, PREVIOUS, AtomicCheckpointIO


class SavedRun:
    """The saves of one run.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._checkpoints = folder, folder / "checkpoints"
        self._io = AtomicCheckpointIO()

    def connect(self, trainer: Any) -> None:
        """Let the trainer write its checkpoints atomically."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = self._io

    def begin(self, trainer: Any) -> None:
        """A run that does not go on from this folder's checkpoints replaces them: the one before its last is never
        another run's."""
        mine = [(self._checkpoints / name).resolve() for name in (LAST, PREVIOUS)]
        self._io.keeps_previous = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() in mine

    def save(self, trainer: Any, module: Any, *, best: bool) -> None:
        """Write the last cartridge and checkpoint, and in front of them the best ones, where these are.

        Raises:
            OutOfSpaceError: no room; the files of the save before stay.
        """
        if best:
            self._write(trainer, module, BEST, "cartridge-best")
        self._write(trainer, module, LAST, "cartridge")

    def _write(self, trainer: Any, module: Any, checkpoint: str, cartridge: str) -> None:
        if trainer.is_global_zero:
            loss = trainer.callback_metrics.get("train/loss")
            module.cartridge.provenance = replace(
                module.cartridge.provenance,
                steps=trainer.global_step,
                loss=None if loss is None else float(loss),
            )
            self.write_cartridge(trainer, module, cartridge)
            if not self._io.keeps_previous:
                (self._checkpoints / PREVIOUS).unlink(missing_ok=True)
        # Every process takes part: a sharded strategy writes its shards, and the stream's state is gathered.
        trainer.save_checkpoint(self._checkpoints / checkpoint)
        self._io.keeps_previous |= checkpoint == LAST

    def write_cartridge(self, trainer: Any, module: Any, cartridge: str = "cartridge") -> None:
        """The cartridge alone, which may have been noted more about since it was saved."""
        with _averaged(trainer, module):
            module.cartridge.save_pretrained(self.folder / cartridge)


@contextmanager
def _averaged(trainer: Any, module: Any) -> Iterator[None]:
    """With the average in the place of the cartridge, as it is validated, where a callback keeps one."""
    averages = [one for one in trainer.callbacks if isinstance(one, WeightAveraging)]
    for callback in averages:
        callback.on_validation_epoch_start(trainer, module)
    try:
        yield
    finally:
        for callback in averages[::-1]:
            callback.on_validation_epoch_end(trainer, module)
