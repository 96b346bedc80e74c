"""One layer's cascade: what it holds, and how a chunk is read and then inserted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from lit_cartridges.attention.extras import AttentionExtras
from lit_cartridges.cascade.chunk_attention import ChunkLayout
from lit_cartridges.cascade.insertion import InsertionPlan, plan_insertion, stored_tokens
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.cascade.triton_attention import attend_here

HEAD_REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda x, dim: x.mean(dim, keepdim=True),
    "max": lambda x, dim: x.amax(dim, keepdim=True),
    # Of an even number of heads the lower of the two in the middle: a score that some head has given.
    "median": lambda x, dim: x.median(dim, keepdim=True).values,
}


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


class CascadeLayer(CacheLayerMixin):
    """What a cascade holds of one layer.

    Per row and column (a column is a position; see `insertion`), once something was read: ``keys`` and ``values``
    [R, KV, n, head_dim], keys without rotation; ``scores`` fp32 and ``tokens`` int64 [R, H, n], where H is KV, or 1 if the
    heads share one token set. A token's index counts from the row's first real token. On the CPU: ``seen`` [R], tokens
    seen, and ``counts`` [R, C], entries of each sub-cache.
    """

    keys: Any  # Tensor once something was read, None before
    values: Any
    is_sliding = False
    supports_early_init = False
    # `crop` works until something is lost, which nothing can promise beforehand.
    is_croppable = False

    def __init__(self, *, shape: CascadeShape, head_reduction: str, shared_heads: bool) -> None:
        super().__init__()
        self.shape, self.shared_heads = shape, shared_heads
        self._reduce = HEAD_REDUCTIONS[head_reduction]
        self.cumulative_length = 0  # columns read, padding included: what transformers counts
        self.reset()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        R, KV = key_states.shape[:2]
        self.keys, self.values = key_states.detach()[:, :, :0], value_states.detach()[:, :, :0]
        H = 1 if self.shared_heads else KV
        self.scores = torch.zeros(R, H, 0, dtype=torch.float32, device=key_states.device)
        self.tokens = torch.zeros(R, H, 0, dtype=torch.long, device=key_states.device)
        self.seen = torch.zeros(R, dtype=torch.long)
        self.counts = torch.zeros(R, self.shape.cascades, dtype=torch.long)
        self.is_initialized = True

    def read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        step: CascadeStep,
        rotate: Callable[[Tensor, Tensor, int], Tensor],
        scale: float,
        window: int | None,
        extras: AttentionExtras,
    ) -> Tensor:
        """Read one stride, update the scores, insert the stride; output [R, heads, q, head_dim].

        Args:
            query: [R, heads, q, head_dim], and ``key``, ``value`` [R, KV, q, head_dim], not rotated.
            rotate: as `Rotation.rotate` for this layer.
            window: a sliding-window layer's width. It is measured in re-indexed positions, as all that the model sees.
        """
        if key.shape[1:2] + key.shape[3:] != self.keys.shape[1:2] + self.keys.shape[3:]:
            raise ValueError(
                f"attention takes {key.shape[1]} heads of keys {key.shape[3]} wide where {self.keys.shape[1]} of "
                f"{self.keys.shape[3]} are cached, so this model cannot read a cascade; choose another model"
            )
        layout, limit = step.layout, step.layout.limit
        columns = torch.arange(layout.held, device=key.device)[None]
        keys = torch.cat(
            [rotate(self.keys, columns, limit), rotate(key, layout.positions, limit)], dim=2
        )  # (R, KV, n + q, D)
        values = torch.cat([self.values, value], dim=2)
        out, sums = attend_here(
            *(rotate(query, layout.positions, limit), keys, values),
            layout=layout,
            scale=scale,
            window=window,
            extras=extras,
        )
        scores = self._reduced(sums.detach(), key.shape[1])  # (R, H, n + q)
        scores[:, :, : layout.held] += self.scores * step.decay
        keep = step.plan.columns(scores)  # (R, H, n')
        R, H, _ = keep.shape
        self.keys = _columns_of(torch.cat([self.keys, key.detach()], dim=2), keep)
        self.values = _columns_of(values.detach(), keep)
        self.scores = scores.gather(2, keep)
        self.tokens = torch.cat([self.tokens, step.tokens.expand(R, H, -1)], dim=2).gather(2, keep)
        self.seen, self.counts = step.plan.seen, step.plan.counts
        self.cumulative_length += key.shape[2]
        return out

    def _reduced(self, sums: Tensor, kv_heads: int) -> Tensor:
        """[R, heads, m] to [R, H, m], over the query heads that share a token set."""
        R, heads, m = sums.shape
        sets = 1 if self.shared_heads else kv_heads
        return self._reduce(sums.view(R, sets, heads // sets, m), 2).squeeze(2)

    def stored(self) -> Tensor:
        """Tokens held in each row [R], on the CPU."""
        return stored_tokens(self.shape, self.seen, self.counts)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The new keys and values as they are: holding and reading is done by the attention function."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The mask of the new tokens; of the others the cascade knows which are real.
        return query_length, self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        super().reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens of every row, as transformers counts them: a negative number.

        Possible as long as everything seen is held, since what was lost does not come back. Scores keep what the
        forgotten queries have added to those of other tokens.

        Raises:
            ValueError: something was lost already, or fewer tokens were seen.
        """
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        fewest = int(self.seen.min())
        if not -fewest <= tokens_to_remove < 0:
            raise ValueError(
                f"crop({tokens_to_remove}) of rows with {fewest} tokens; give a negative number down to {-fewest}"
            )
        if not torch.equal(self.stored(), self.seen):
            raise ValueError(
                f"crop({tokens_to_remove}) after {int(self.seen.max())} tokens in a cascade of "
                f"{self.shape.capacity_tokens}: tokens were lost and do not come back; a larger cache can be cropped"
            )
        self.seen = self.seen + tokens_to_remove
        # Nothing is lost, so counts do not depend on scores, and columns are in the order of the tokens.
        again = torch.arange(int(self.seen.max())) < self.seen[:, None]
        empty = torch.zeros_like(self.seen), torch.zeros_like(self.counts)
        self.counts = plan_insertion(self.shape, *empty, again).counts if again.numel() else empty[1]
        self.cumulative_length += tokens_to_remove
        self._trim()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values", "scores", "tokens", "seen", "counts"):
            x = getattr(self, name)
            setattr(self, name, x[indices.to(x.device)])
        self._trim()

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.batch_select_indices(torch.arange(len(self.seen)).repeat_interleave(repeats))

    def _trim(self) -> None:
        """Drop columns that no row uses any more."""
        held = int(self.stored().max())
        for name in ("keys", "values", "scores", "tokens"):
            setattr(self, name, getattr(self, name)[:, :, :held])


def _columns_of(x: Tensor, columns: Tensor) -> Tensor:
    """``x`` [R, KV, m, D] at ``columns`` [R, KV or 1, n]: copies whole rows of D, where `gather` would look up every number."""
    R, KV, m, D = x.shape
    first = torch.arange(R * KV, device=x.device).view(R, KV, 1) * m
    chosen = x.reshape(-1, D).index_select(0, (first + columns).flatten())
    return chosen.view(R, KV, columns.shape[2], D)
