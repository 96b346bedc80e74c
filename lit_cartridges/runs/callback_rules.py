"""Lightning's callbacks that would do silently wrong in a run of ours, or nothing at all: refused before the work begins.

docs/lightning.md lists all of Lightning's.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from lit_cartridges.errors import SettingError
from lit_cartridges.runs.run_progress import is_endless

_REFUSED: dict[type[Callback], str] = {
    BaseFinetuning: "thaws a model, which stays frozen here; of a cartridge model.num_frozen_tokens stay as they start",
    BatchSizeFinder: "has no batch size to find: a micro-batch is as many conversations as data.tokens_per_batch "
    "holds; set that",
    GradientAccumulationScheduler: "changes how many batches a step has, which the stream knows beforehand; set "
    "trainer.accumulate_grad_batches",
    ModelPruning: "would prune the frozen model; a smaller model.num_tokens makes a smaller cartridge",
    OnExceptionCheckpoint: "would save in the middle of an optimizer step; CartridgeCheckpoint keeps the last good state",
    StochasticWeightAveraging: "averages at ends of epochs, and the stream need not have any; take EMAWeightAveraging "
    "or WeightAveraging, which average by optimizer steps",
}


def require_callbacks(trainer: Any) -> None:
    """
    Raises:
        SettingError: a callback of the trainer, for a training, which the message names.
    """
    for callback in trainer.callbacks:
        for kind, why in _REFUSED.items():
            if isinstance(callback, kind):
                trainer.callbacks.remove(callback)  # or it would hear of this error, and save
                raise _error(callback, why)
        if isinstance(callback, ModelCheckpoint):
            _require_whole_steps(callback, trainer)
        if isinstance(callback, WeightAveraging) and hasattr(trainer.strategy, "in_step"):
            raise _error(callback, "knows no sharded models; set another trainer.strategy, or leave it out")
        if not trainer.fast_dev_run:
            _require_asked(callback, trainer)


def _require_whole_steps(callback: ModelCheckpoint, trainer: Any) -> None:
    if callback.save_on_exception:
        raise _error(callback, f"with save_on_exception {_REFUSED[OnExceptionCheckpoint]}")
    if callback._train_time_interval is not None and trainer.accumulate_grad_batches > 1:
        raise _error(
            callback,
            "with train_time_interval would save between the micro-batches of an optimizer step; set every_n_train_steps",
        )


def require_validation(trainer: Any, who: str, figure: object) -> None:
    """
    Raises:
        SettingError: ``who`` monitors a figure of validations, and this run never validates.
    """
    mend = _not_validating(trainer)
    if str(figure).startswith("val/") and mend and not trainer.fast_dev_run:
        raise SettingError(f"{who} monitors {figure}, and this run never validates; {mend}")


def _epochs_end(trainer: Any) -> bool:
    return (
        isinstance(trainer.limit_train_batches, int) or trainer.overfit_batches > 0 or not is_endless(trainer)
    )


def _not_validating(trainer: Any) -> str | None:
    """What to set in a run that never validates."""
    data = getattr(trainer, "datamodule", None)
    keeps_back = getattr(getattr(data, "source", None), "keeps_back", True)
    if not keeps_back and getattr(data, "validation", None) is None:
        return "set data.validation, a recording, and trainer.val_check_interval, a number of batches"
    within = not isinstance(trainer.val_check_interval, float)  # as a share, 1.0 is an epoch's end
    if trainer.limit_val_batches > 0 and (_epochs_end(trainer) or within):
        return None
    return "set trainer.val_check_interval, a number of batches, such as 100"


def _require_asked(callback: Callback, trainer: Any) -> None:
    """A callback that acts at the ends of epochs or validations needs some."""
    epochs_end, mend = _epochs_end(trainer), _not_validating(trainer)
    monitor = getattr(callback, "monitor", None)
    if isinstance(callback, EarlyStopping | ModelCheckpoint):
        require_validation(trainer, f"trainer.callbacks: {type(callback).__name__}", monitor)
    if isinstance(callback, EarlyStopping) and mend and not epochs_end:
        raise _error(callback, f"looks at {monitor} when a validation ends, and there is none; {mend}")
    if isinstance(callback, EarlyStopping) and not epochs_end:
        # Lightning takes one batch for one epoch here.
        at_end = trainer.val_check_interval == 1 and trainer.check_val_every_n_epoch == 1
        if callback._check_on_train_epoch_end or (callback._check_on_train_epoch_end is None and at_end):
            raise _error(
                callback,
                "waits for an epoch's end, and the stream is one epoch; set its check_on_train_epoch_end to false",
            )
    if isinstance(callback, Timer) and callback._interval == "epoch" and not epochs_end:
        raise _error(
            callback, "with interval=epoch waits for an epoch's end, and the stream is one epoch; set step"
        )


def _error(callback: Callback, why: str) -> SettingError:
    return SettingError(f"trainer.callbacks: {type(callback).__name__} {why}")
