"""Where a run stands: the learning rate of an optimizer step, and a checkpoint's count of batches."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_share(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the learning rate at optimizer step ``step`` of ``steps``: linear up, then half a cosine to ``final``."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def warm_up_and_cosine(optimizer: Optimizer, steps: int, warmup_steps: int, final: float) -> LambdaLR:
    """`learning_rate_share` as a schedule over ``steps``; the warm-up takes a tenth of them at the most."""
    warmup = min(warmup_steps, steps // 10)
    return _Schedule(optimizer, lambda step: learning_rate_share(step, steps, warmup, final))


class _Schedule(LambdaLR):
    """torch's, but a checkpoint tells it the step alone: the learning rate is this run's, from the next step on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = self.base_lrs
        super().load_state_dict({**state_dict, "base_lrs": own})
        self._last_lr = [
            rate * share(self.last_epoch) for rate, share in zip(own, self.lr_lambdas, strict=True)
        ]
        for group, base, rate in zip(self.optimizer.param_groups, own, self._last_lr, strict=True):
            group["initial_lr"], group["lr"] = base, rate


def recount_batches(checkpoint: dict[str, Any], batches: int) -> None:
    """Let a checkpoint's loops have taken ``batches`` micro-batches, as many as its optimizer steps are for this run.

    A run on another number of processes may take another number of micro-batches a step, and Lightning steps wherever
    the count is a multiple of that. Checkpoints are saved between optimizer steps.
    """
    for progress in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(progress, dict):
            shift = batches - progress["ready"]
            progress.update({name: count + shift for name, count in progress.items()})
