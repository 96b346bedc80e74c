"""Adam's state under DeepSpeed's ZeRO, as plain torch writes it: whole, fp32, one entry per parameter.

So a checkpoint is the same file whatever wrote it, and any number of processes under any strategy goes on from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


def whole_state(optimizer: Any, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    """What ``torch.optim.Adam.state_dict`` would give; all processes must call it together.

    Args:
        optimizer: DeepSpeed's, or a plain one, which is asked itself.
        parameters: all that it trains, in their order.
    """
    if not _is_sharded(optimizer):
        return dict(optimizer.state_dict())
    from deepspeed.utils import safe_get_full_optimizer_state

    (group,) = optimizer.optimizer.param_groups
    own = optimizer.optimizer.state.get(group["params"][0], {})
    state: dict[int, dict[str, Any]] = {}
    if own:
        for index, parameter in enumerate(parameters):
            state[index] = {"step": torch.as_tensor(own["step"], dtype=torch.float32).cpu().clone()}
            for name in _MOMENTS:
                state[index][name] = safe_get_full_optimizer_state(parameter, name)
    settings = {name: value for name, value in group.items() if name != "params"}
    return {"state": state, "param_groups": [{**settings, "params": list(range(len(parameters)))}]}


def load_whole_state(optimizer: Any, parameters: Sequence[nn.Parameter], saved: dict[str, Any]) -> None:
    """The inverse of `whole_state`; the parameters have their loaded values already."""
    if not _is_sharded(optimizer):
        optimizer.load_state_dict(saved)
        return
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    (group,), (theirs,) = optimizer.optimizer.param_groups, saved["param_groups"]
    group.update({name: value for name, value in theirs.items() if name != "params"})
    for parameter in parameters:
        safe_set_full_fp32_param(parameter, parameter.data.float())
    if not saved["state"]:
        return
    flat = group["params"][0]
    moments = {name: torch.zeros_like(flat) for name in _MOMENTS}
    optimizer.optimizer.state[flat] = {"step": saved["state"][0]["step"].clone(), **moments}
    # DeepSpeed learns where a parameter's moments lie when it first steps; they are there now.
    optimizer._lazy_init_hp_params_optimizer_state()
    for index, parameter in enumerate(parameters):
        for name in _MOMENTS:
            safe_set_full_optimizer_state(parameter, saved["state"][index][name].to(flat.device), name)


def _is_sharded(optimizer: Any) -> bool:
    return hasattr(optimizer, "single_partition_of_fp32_groups")
