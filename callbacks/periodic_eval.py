"""What evaluating callbacks share: measuring every so many optimizer steps without disturbing the training."""

from __future__ import annotations

from abc import abstractmethod
from time import perf_counter
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lit_cartridges.conversations.material import Material
from lit_cartridges.settings import PositiveInt, checked


class PeriodicEval(L.Callback):
    """Calls `measure` every ``every_n_steps`` optimizer steps, and logs what it returns to all loggers.

    Every process calls `measure` in the same step. Random states are put back afterwards, and no gradient is kept.

    Args:
        name: prefix of the logged figures; give each callback of a kind its own.
        every_n_steps: optimizer steps between measurements, however many batches each accumulates.
        at_start: measure before the first step too.
        at_end: measure when training ends, unless its last step has been.

    Attributes:
        history: per measurement ``step``, ``training_s`` (wall-clock seconds so far without the measurements) and the
            figures by their logged names. Checkpoints keep it.
    """

    @checked
    def __init__(self, *, name: str, every_n_steps: PositiveInt, at_start: bool, at_end: bool) -> None:
        self.name, self.every_n_steps, self.at_start, self.at_end = name, every_n_steps, at_start, at_end
        self.history: list[dict[str, Any]] = []
        self._seen_step = 0
        self._begun = 0.0

    @abstractmethod
    def measure(self, trainer: L.Trainer, pl_module: Any) -> dict[str, float]:
        """The figures by their names, without the prefix; called under no_grad on every process."""

    @property
    def state_key(self) -> str:
        """Class and prefix, so that two of a kind can be in one run."""
        return f"{type(self).__name__}:{self.name}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, where a resumed run's history ends."""
        self._seen_step = trainer.global_step
        self._begun = perf_counter() - (self.history[-1]["training_s"] if self.history else 0.0)
        if self.at_start and trainer.global_step == 0:
            self._run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure when an optimizer step that is due has just been taken."""
        if trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        if self._seen_step % self.every_n_steps == 0:
            figures = self._run(trainer, pl_module)
            # For checkpoints that monitor one of them; the loggers have them already.
            pl_module.log_dict(figures, logger=False, on_step=True, on_epoch=False, batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the end of the training."""
        if self.at_end and (not self.history or self.history[-1]["step"] != trainer.global_step):
            self._run(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of the run so far."""
        self.history = list(state_dict["history"])

    def _run(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        start = perf_counter()
        with isolate_rng(), torch.no_grad():
            figures = {f"{self.name}/{key}": value for key, value in self.measure(trainer, pl_module).items()}
        training_s = start - self._begun
        self.history.append({"step": trainer.global_step, "training_s": training_s, **figures})
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
        self._begun += perf_counter() - start
        return figures


def material_of(pl_module: Any, asking: L.Callback) -> Material:
    """The corpus and the chat template of the run.

    Raises:
        ValueError: the module is connected to no data.
    """
    material: Material | None = getattr(pl_module, "material", None)
    if material is None:
        raise ValueError(
            f"{type(asking).__name__} asks about a corpus, and none is known: call module.connect(data) with a "
            "SelfStudyDataModule before fit"
        )
    return material
