"""Steps of full cascades come again and again: they are made once, and kept on the device."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.cascade.cascade_step import CascadeStep
from lit_cartridges.cascade.shape import CascadeShape

# Strides of a multiple of 2^(C-1) tokens make one step for ever, shorter ones up to 2^(C-1) in turn: all of 5 sub-caches.
MOST_STEPS = 16


class SteadySteps:
    """`CascadeStep.of`, from memory where it can be: sinks are full, and eager filling is over.

    From there on a step depends on the entries of the sub-caches, on the chunk's padding, and on the rows' phases alone, since
    sub-cache i accepts one token in 2^i; only the tokens' indices go on counting.
    """

    def __init__(self) -> None:
        self._steps: OrderedDict[Any, CascadeStep] = OrderedDict()

    def of(
        self,
        shape: CascadeShape,
        seen: Tensor,
        counts: Tensor,
        real: Tensor,
        *,
        ema_factor: float,
        device: torch.device,
    ) -> CascadeStep:
        """See `CascadeStep.of`."""
        after_sinks = seen - shape.sink_tokens
        filling = shape.cascades * shape.window_tokens if shape.eager_fill else -1
        if int(after_sinks.min()) <= filling:
            return CascadeStep.of(shape, seen, counts, real, ema_factor=ema_factor, device=device)
        phases = after_sinks % 2 ** (shape.cascades - 1)
        padding = None if bool(real.all()) else real.numpy().tobytes()
        id_ = (
            *(shape, tuple(real.shape), padding, ema_factor, device),
            *(counts.numpy().tobytes(), phases.numpy().tobytes()),
        )
        known = self._steps.pop(id_, None)
        if known is None:
            known = CascadeStep.of(shape, seen, counts, real, ema_factor=ema_factor, device=device)
            step = known
        else:
            rank = (real.cumsum(1) - 1).clamp(min=0)
            step = replace(
                known,
                plan=replace(known.plan, seen=seen + real.sum(1)),
                tokens=(seen[:, None] + rank)[:, None].to(device),
            )
        self._steps[id_] = known
        if len(self._steps) > MOST_STEPS:
            self._steps.popitem(last=False)
        return step
