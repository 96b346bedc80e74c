"""What one stride does in all layers of one shape, from token counts alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cartridges.cascade.chunk_attention import ChunkLayout
from lit_cartridges.cascade.insertion import InsertionPlan, plan_insertion, stored_tokens
from lit_cartridges.cascade.shape import CascadeShape


@dataclass(frozen=True, kw_only=True)
class CascadeStep:
    """All that one stride does, but for keys, values and scores; the same in all layers of one shape.

    Args:
        decay: [R, 1, 1] by which old scores shrink: β to the number of the row's queries.
        tokens: [R, 1, q] indices of the chunk's tokens, counted from the row's first real one.
    """

    layout: ChunkLayout
    plan: InsertionPlan
    decay: Tensor
    tokens: Tensor

    @classmethod
    def of(
        cls,
        shape: CascadeShape,
        seen: Tensor,
        counts: Tensor,
        real: Tensor,
        *,
        ema_factor: float,
        device: torch.device,
    ) -> CascadeStep:
        """For a chunk ``real`` [R, q] and rows that have seen so much (see `plan_insertion`)."""
        stored = stored_tokens(shape, seen, counts)
        rank = (real.cumsum(1) - 1).clamp(min=0)
        queries = real.sum(1, keepdim=True)
        # A query's contribution shrinks with each query after it: (queries - 1 - rank) of them.
        weights = torch.where(real, ema_factor ** (queries - 1 - rank).double(), 0.0).float()
        positions, held = stored[:, None] + rank, int(stored.max())
        return cls(
            layout=ChunkLayout(
                held=held,
                stored=None if bool((stored == held).all()) else stored.to(device),
                positions=positions.to(device),
                real=None if bool(real.all()) else real.to(device),
                weights=weights.to(device),
                limit=int(positions.max()) + 1,
            ),
            plan=plan_insertion(shape, seen, counts, real, device=device),
            decay=(ema_factor ** queries.double()).float()[:, :, None].to(device),
            tokens=(seen[:, None] + rank)[:, None].to(device),
        )
