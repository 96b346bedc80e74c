"""Where a run stands: its optimizer steps and epochs, the learning rate of a step, a checkpoint's count of batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_cartridges.errors import SettingError


def require_whole_epochs(
    *, limit_train_batches: Any, overfit_batches: Any, accumulate_grad_batches: int, prefix: str = "trainer."
) -> None:
    """
    Raises:
        SettingError: an epoch would end within an optimizer step, which Lightning then takes on fewer batches.
    """
    if isinstance(overfit_batches, float) and overfit_batches > 0:
        raise SettingError(
            "must be a number of batches: the stream has no length of which this could be a share",
            {f"{prefix}overfit_batches": overfit_batches},
        )
    # Lightning takes the limit from overfit_batches, where that is set.
    for name, batches in (("overfit_batches", overfit_batches), ("limit_train_batches", limit_train_batches)):
        if isinstance(batches, int) and batches % accumulate_grad_batches:
            raise SettingError(
                "an epoch would end within an optimizer step; make the first a multiple of the second",
                {prefix + name: batches, f"{prefix}accumulate_grad_batches": accumulate_grad_batches},
            )


def require_end(trainer: Any) -> None:
    """
    Raises:
        SettingError: the stream has no end, and nothing else ends the run.
    """
    if trainer.max_steps < 0 and is_endless(trainer):
        raise SettingError(
            "the stream has no end, so a run needs one; set the number of optimizer steps",
            {"trainer.max_steps": trainer.max_steps},
        )


def optimizer_steps(trainer: Any) -> int:
    """Of the whole run; on an endless stream Lightning's own estimate would begin it before a checkpoint is loaded."""
    if not is_endless(trainer):
        return int(trainer.estimated_stepping_batches)
    limit, epochs = trainer.limit_train_batches, trainer.max_epochs or -1
    if isinstance(limit, int) and epochs > 0:
        return min(int(trainer.max_steps), epochs * math.ceil(limit / trainer.accumulate_grad_batches))
    return int(trainer.max_steps)


def is_endless(trainer: Any) -> bool:
    """Whether its data module declares that its loader never ends."""
    return bool(getattr(getattr(trainer, "datamodule", None), "endless", False))


def learning_rate_share(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the learning rate at optimizer step ``step`` of ``steps``: linear up, then half a cosine to ``final``."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def warm_up_and_cosine(optimizer: Optimizer, steps: int, warmup_steps: int, final: float) -> Schedule:
    """`learning_rate_share` as a schedule over ``steps``; the warm-up takes a tenth of them at the most."""
    warmup = min(warmup_steps, steps // 10)
    return Schedule(optimizer, lambda step: learning_rate_share(step, steps, warmup, final))


class Schedule(LambdaLR):
    """torch's, but a checkpoint tells it the step alone: the learning rate is this run's, from the next step on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `LambdaLR.load_state_dict`."""
        own = self.base_lrs
        super().load_state_dict({**state_dict, "base_lrs": own})
        self.set_base(own)

    def set_base(self, rates: Sequence[Any]) -> None:
        """Go on from these learning rates, of which the schedule says the share."""
        self.base_lrs = list(rates)
        self._last_lr = [
            rate * share(self.last_epoch) for rate, share in zip(rates, self.lr_lambdas, strict=True)
        ]
        for group, base, rate in zip(self.optimizer.param_groups, rates, self._last_lr, strict=True):
            group["initial_lr"], group["lr"] = base, rate


def recount_batches(checkpoint: dict[str, Any], a_step: int, epoch: Any = None) -> None:
    """Let a checkpoint's loops have taken ``a_step`` micro-batches for each optimizer step, in all and in this epoch.

    A run on another number of processes may take another number of micro-batches a step, and Lightning steps wherever
    the count is a multiple of that. Checkpoints are saved between optimizer steps. Of a checkpoint that is saved after an
    epoch's end Lightning would go on with that epoch for one batch more.

    Args:
        epoch: batches of one, where it is a number.
    """
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    before, now = progress["total"]["ready"], checkpoint["global_step"] * a_step
    a_step_then = checkpoint.get("settings", {}).get("trainer.accumulate_grad_batches", a_step)
    in_epoch = progress["current"]["ready"]
    in_epoch = now if in_epoch == before else in_epoch // a_step_then * a_step
    if isinstance(epoch, int) and in_epoch >= epoch:
        epochs = loop["epoch_progress"]["total"]
        in_epoch = 0 if epochs["completed"] == epochs["ready"] else in_epoch
    for name, ready in (("total", now), ("current", in_epoch)):
        shift = ready - progress[name]["ready"]
        progress[name].update({kind: count + shift for kind, count in progress[name].items()})
