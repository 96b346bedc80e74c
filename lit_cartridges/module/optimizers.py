"""What a cartridge is trained with: Adam with a warm-up and a cosine, or an optimizer and a schedule of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lit_cartridges.errors import SettingError
from lit_cartridges.runs.callback_rules import require_validation

OptimizerOf = Callable[[Iterable[Tensor]], Optimizer]
ScheduleOf = Callable[[Optimizer], Any]


def adam(module: Any, strategy: Any) -> torch.optim.Adam:
    """Adam on the cartridge of a `LitCartridge`; on a CUDA device two launches for all of its tensors, and no waiting.

    There its state is saved as the plain one's and taken from either, so that a run goes on anywhere. ZeRO hands its
    optimizer tensors that it joins itself, whose count of steps lies on the CPU.
    """
    tensors = list(module.cartridge.parameters())
    fused = fuses(tensors[0].device) and not strategy.handles_gradient_accumulation
    optimizer = torch.optim.Adam(
        tensors, lr=module.learning_rate, betas=module.betas, fused=True if fused else None
    )
    if fused:
        optimizer.register_state_dict_post_hook(_saved_as_plain)
        optimizer.register_load_state_dict_pre_hook(_taken_from_either)
    return optimizer


def fuses(device: torch.device) -> bool:
    """Not on the CPU, where results stay what they were."""
    return device.type == "cuda"


def _saved_as_plain(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    kept = {index: held | {"step": held["step"].cpu()} for index, held in state["state"].items()}
    return {"state": kept, "param_groups": [group | {"fused": None} for group in state["param_groups"]]}


def _taken_from_either(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return state | {"param_groups": [group | {"fused": True} for group in state["param_groups"]]}


class OwnOptimizer:
    """An optimizer and a schedule that stand for the ones of `LitCartridge`; each may be None.

    Args:
        optimizer: makes it from the tensors to train.
        lr_scheduler: makes a schedule from the optimizer, of a step for each optimizer step.

    Raises:
        SettingError: an optimizer that reads a step's batches several times.
    """

    def __init__(self, optimizer: OptimizerOf | None = None, lr_scheduler: ScheduleOf | None = None) -> None:
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        tried = (optimizer or torch.optim.Adam)([torch.nn.Parameter(torch.zeros(1))])
        if isinstance(tried, LBFGS):
            raise SettingError("reads a step's batches several times, and they come once", optimizer="LBFGS")
        self.monitor = getattr(lr_scheduler(tried), "monitor", None) if lr_scheduler else None

    def require_figure(self, trainer: Any) -> None:
        """
        Raises:
            SettingError: the schedule follows a figure of validations, and there are none.
        """
        require_validation(trainer, "lr_scheduler: it", self.monitor)

    def scheduled(self, schedule: Any, trainer: Any) -> dict[str, Any]:
        """As Lightning takes it. One that follows a figure moves when that is new, counted in batches."""
        known = {"scheduler": schedule, "interval": "step"}
        if self.monitor is None:
            return known
        every = max(1, trainer.log_every_n_steps) * trainer.accumulate_grad_batches
        if self.monitor.startswith("val/") and isinstance(trainer.val_check_interval, int):
            every = trainer.val_check_interval
        return known | {"monitor": self.monitor, "frequency": every}
