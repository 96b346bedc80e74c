"""One layer's cascade: what it holds, and how a chunk is read and then inserted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from lit_cartridges.attention.extras import AttentionExtras
from lit_cartridges.cascade.cascade_step import CascadeStep
from lit_cartridges.cascade.insertion import plan_insertion, stored_tokens
from lit_cartridges.cascade.ring import Ring
from lit_cartridges.cascade.ring_clock import RingClock
from lit_cartridges.cascade.rotation import Turn
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.cascade.triton_attention import attend_here

HEAD_REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda x, dim: x.mean(dim, keepdim=True),
    "max": lambda x, dim: x.amax(dim, keepdim=True),
    # Of an even number of heads the lower of the two in the middle: a score that some head has given.
    "median": lambda x, dim: x.median(dim, keepdim=True).values,
}


def _by_columns(name: str) -> Any:
    """An attribute of what is held by columns: looked at or set, it ends the reading of single tokens by slots."""

    def get(layer: CascadeLayer) -> Any:
        layer.leave_ring()
        return layer.__dict__[name]

    def put(layer: CascadeLayer, value: Any) -> None:
        layer.leave_ring()
        layer.__dict__[name] = value

    return property(get, put)


class CascadeLayer(CacheLayerMixin):
    """What a cascade holds of one layer.

    Per row and column (a column is a position; see `insertion`), once something was read: ``keys`` and ``values``
    [R, KV, n, head_dim], keys without rotation; ``scores`` fp32 and ``tokens`` int64 [R, H, n], where H is KV, or 1 if the
    heads share one token set. A token's index counts from the row's first real token. On the CPU: ``seen`` [R], tokens
    seen, and ``counts`` [R, C], entries of each sub-cache. While single tokens are read into a full cascade, a `Ring` holds all
    of these, and they are made from it when somebody asks.
    """

    keys: Any = _by_columns("keys")  # Tensor once something was read, None before
    values: Any = _by_columns("values")
    scores: Any = _by_columns("scores")
    tokens: Any = _by_columns("tokens")
    seen: Any = _by_columns("seen")
    counts: Any = _by_columns("counts")
    ring: Ring | None = None
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

    @property
    def is_full(self) -> bool:
        """Whether every sub-cache of every row is: it stays so."""
        if self.ring is not None:
            return True
        return self.is_initialized and bool((self.counts == self.shape.window_tokens).all())

    @property
    def rows(self) -> int:
        """R, once something was read."""
        return len(self.seen) if self.ring is None else len(self.ring.held)

    @property
    def dtype(self) -> torch.dtype:
        """Of the keys and values held."""
        held: Tensor = self.keys if self.ring is None else self.ring.held
        return held.dtype

    def enter_ring(self, clock: RingClock, turn: Turn) -> Ring:
        """Hold what is held by slots, for single tokens to come; the layer is full, and ``clock`` has counted none yet."""
        ring = Ring(self, clock, turn)
        for name in ("keys", "values", "scores", "tokens"):
            setattr(self, name, None)
        self.ring = ring
        clock.layers.append(self)
        return ring

    def leave_ring(self) -> None:
        """Hold what is held by columns, this layer and all that read single tokens with it.

        Raises:
            RuntimeError: they have not read the same tokens.
        """
        if self.ring is None:
            return
        clock = self.ring.clock
        layers = [layer for layer in clock.layers if layer.ring is not None and layer.ring.clock is clock]
        if any(layer.ring.steps != clock.steps for layer in layers if layer.ring is not None):
            raise RuntimeError(
                "some layers of this cascade have read a token and others have not: it is being read, or a call broke off; "
                "look at it between two calls, or reset() it"
            )
        seen = clock.seen.cpu()
        for layer in layers:
            ring, layer.ring = layer.ring, None
            assert ring is not None
            layer.keys, layer.values, layer.scores, layer.tokens = ring.columns()
            layer.seen = seen
            layer.counts = torch.full((len(seen), layer.shape.cascades), layer.shape.window_tokens)

    def read_token(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """`read` for one token a row, inside the ring; ``options`` as for `Ring.read`."""
        assert self.ring is not None
        out = self.ring.read(query, key, value, reduced=self._reduced, **options)
        self.cumulative_length += 1
        return out

    def require_same_heads(self, key: Tensor) -> None:
        """Refuse keys that do not fit what is held."""
        held, width = (
            (self.keys.shape[1], self.keys.shape[3])
            if self.ring is None
            else (self.ring.held.shape[1], self.ring.key_width)
        )
        if (key.shape[1], key.shape[3]) != (held, width):
            raise ValueError(
                f"attention takes {key.shape[1]} heads of keys {key.shape[3]} wide where {held} of {width} are cached, so this "
                "model cannot read a cascade; choose another model"
            )

    def _reduced(self, sums: Tensor, kv_heads: int) -> Tensor:
        """[R, heads, m] to [R, H, m], over the query heads that share a token set."""
        R, heads, m = sums.shape
        sets = 1 if self.shared_heads else kv_heads
        return self._reduce(sums.view(R, sets, heads // sets, m), 2).squeeze(2)

    def stored(self) -> Tensor:
        """Tokens held in each row [R], on the CPU."""
        if self.ring is not None:
            return torch.full((self.rows,), self.shape.capacity_tokens)
        return stored_tokens(self.shape, self.seen, self.counts)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The new keys and values as they are: holding and reading is done by the attention function."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values, scores and token indices as held now."""
        if self.ring is not None:
            return self.ring.nbytes
        held = (self.keys, self.values, self.scores, self.tokens) if self.is_initialized else ()
        return sum(x.numel() * x.element_size() for x in held)

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The mask of the new tokens; of the others the cascade knows which are real.
        return query_length, self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.ring = None
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
            self.batch_select_indices(torch.arange(self.rows).repeat_interleave(repeats))

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
