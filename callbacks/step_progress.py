"""A progress bar that counts optimizer steps, since a stream has no epochs."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.terminal import printable


class StepProgress(ProgressBar):
    """``cartridge  34%|███▍ | 68/200 [00:12<00:24, 5.4 steps/s] loss 0.412 · ppl 1.38``."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Any = None

    def disable(self) -> None:
        """Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step from which a resumed run goes on."""
        if self._enabled:
            total = None if trainer.max_steps < 0 else trainer.max_steps
            self._bar = SteadyBar(
                total=total,
                initial=trainer.global_step,
                desc="cartridge",
                unit=" steps",
                dynamic_ncols=True,
                leave=True,
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on when an optimizer step is done."""
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        self._bar.update(trainer.global_step - self._bar.n)
        shown = {name.rpartition("/")[2]: value for name, value in trainer.progress_bar_metrics.items()}
        self._bar.set_postfix_str(
            " · ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, float)),
            refresh=False,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bar.write if self._bar is not None else print)(printable(" ".join(map(str, args))))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
