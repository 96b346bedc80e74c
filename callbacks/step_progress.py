"""A progress bar that counts optimizer steps, since a stream has no epochs; it also says when conversations are made."""

from __future__ import annotations

from threading import RLock
from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lit_cartridges.callbacks.time_left import TimeLeft
from lit_cartridges.data.stream import ExampleStream, RoundNews
from lit_cartridges.runs.run_progress import optimizer_steps
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.terminal import printable

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}{postfix}]"
_TRAINING, _MAKING, _READING = "cartridge", "making conversations", "reading conversations"


class StepProgress(ProgressBar):
    """``cartridge:  34%|███▍ | 68/200 steps [00:12, 5.4 steps/s, about 40 s left, loss 0.412 · perplexity 1.38]``, and in
    between ``making conversations:  34%|███▍ | 68/200 steps [00:13, 192 of about 512, 181/s, about 40 s left]``.

    The time left is that of training and of making the conversations which the steps still need, at the rates of this run
    so far. A teacher that is served writes while the run trains, so its news come from another thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Any = None
        self._lock = RLock()
        self._left = TimeLeft(threaded=False)
        self._ended = self._training = False
        self._begun = 0.0
        self._steps: int | None = None

    def disable(self) -> None:
        """Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite."""
        self._enabled = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask to be told of conversations; the first are made before training starts."""
        data: Any = getattr(trainer, "datamodule", None)
        if self._enabled:
            self._ended, self._left = False, TimeLeft(threaded=False)
            if hasattr(data, "on_group"):
                data.on_group = self.on_group

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step from which a resumed run goes on."""
        stream = getattr(trainer.train_dataloader, "dataset", None)
        if self._enabled and isinstance(stream, ExampleStream):
            self._left.threaded, stream.on_group = stream.threaded, self.on_group
        self._open(trainer)

    def on_group(self, news: RoundNews) -> None:
        """Conversations are being made, or read back; from any thread."""
        with self._lock:
            if self._ended:
                return
            self._left.round(news)
            if self._training or not (news.writes or news.made):
                return
            doing = _READING if news.groups and not news.made else _MAKING
            self._open(self.trainer, doing)
            self._show(doing, self._of_round(news))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is there."""
        with self._lock:
            self._training, self._begun = True, perf_counter()
            if self._bar is not None and self._bar.desc != _TRAINING:
                self._show(_TRAINING, self._of_training(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on when an optimizer step is done."""
        with self._lock:
            self._training = False
            self._left.batch(perf_counter() - self._begun)
            if self._bar is None or trainer.global_step == self._bar.n:
                return
            self._bar.set_postfix_str(self._of_training(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar of a run that had nothing left to train."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bar.write if self._bar is not None else print)(printable(" ".join(map(str, args))))

    def _open(self, trainer: L.Trainer, doing: str = _TRAINING) -> None:
        with self._lock:
            if self._bar is None and self._enabled:
                self._steps = _steps(trainer)
                self._bar = SteadyBar(
                    total=self._steps,
                    initial=trainer.global_step,
                    desc=doing,
                    bar_format=_FORMAT,
                    dynamic_ncols=True,
                    leave=True,
                )

    def _show(self, doing: str, more: str) -> None:
        if self._bar is not None:
            changed = self._bar.desc != doing
            self._bar.set_description_str(doing, refresh=False)
            self._bar.set_postfix_str(more, refresh=False)
            self._bar.touch(changed=changed)

    def _of_round(self, news: RoundNews) -> str:
        if not news.groups or not news.made:
            return ""
        in_all = round(news.made * news.of / news.groups)
        told = [f"{news.made} of about {in_all}", f"{news.made / max(news.seconds, 1e-9):.3g}/s"]
        left = self._seconds_left(self.trainer)
        if left is not None:
            told.append(f"about {_clock(left)} left")
        elif (here := self._left.round_seconds()) is not None:
            told.append(f"about {_clock(here)} until training goes on")
        return ", ".join(told)

    def _of_training(self, trainer: L.Trainer) -> str:
        told = []
        if (batch_s := self._left.batch_s) is not None:
            step_s = max(batch_s * trainer.accumulate_grad_batches, 1e-9)
            told.append(f"{1 / step_s:.3g} steps/s" if step_s < 1 else f"{step_s:.3g} s/step")
        if (left := self._seconds_left(trainer)) is not None:
            told.append(f"about {_clock(left)} left")
        shown = {name.rpartition("/")[2]: value for name, value in trainer.progress_bar_metrics.items()}
        figures = " · ".join(
            f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, float)
        )
        return ", ".join([*told, figures] if figures else told)

    def _seconds_left(self, trainer: L.Trainer) -> float | None:
        steps = (self._steps or 0) - trainer.global_step
        return self._left.seconds(steps * trainer.accumulate_grad_batches) if steps > 0 else None

    def _close(self) -> None:
        with self._lock:
            self._ended = True
            if self._bar is not None:
                self._bar.close()
                self._bar = None


def _steps(trainer: L.Trainer) -> int | None:
    """Of the whole run, or None for one that other things than a number of steps will end."""
    try:
        steps = optimizer_steps(trainer)
    except OverflowError:  # Lightning's estimate of a run without an end
        return None
    return None if steps < 0 else steps


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
