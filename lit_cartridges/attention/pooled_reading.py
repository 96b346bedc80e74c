"""Rows of one batch that read different prefixes, by two calls of flash attention whatever the rows.

The prefixes lie one behind the other in a pool, the rows' own keys in the lines of a `RowsCache`. Where each row's keys begin
and how many there are stands in tensors on the device, which flash attention's variable-length path reads itself: there is
no mask, nothing of a row's length shows in a shape, and a step is the same list of operators as the one before, as a CUDA
graph must be. A sliding window is a later beginning. For decoding alone: it has no backward pass.

Shapes: B rows · C runs of rows that read one prefix · H query heads · K key-value heads · G = H / K · D head dim
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention import kernels
from lit_cartridges.attention.extras import known_extras
from lit_cartridges.attention.kernels import Packing, flash_forward
from lit_cartridges.attention.merged import with_sinks
from lit_cartridges.attention.plain import HIDDEN, merged_outputs
from lit_cartridges.attention.readers import LayerCall


class CannotPoolError(Exception):
    """A layer's attention cannot be read in this way; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledReading:
    """What a forward call of one token of every row, [B, 1], reads beside its own tokens.

    Args:
        keys, values: per layer the pool [pool_tokens, K, D].
        runs: int32 [3, C + 1]: where the rows of each run begin, and the last one's end; where its prefix begins; its tokens.
        rows: int64 [B] each: a row's line in the cache; its token's place there; where its prefix begins; the tokens of that.
        furthest: no token's position is beyond it.
        without_prefix: whether there may be rows without one.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    runs: Tensor
    rows: tuple[Tensor, Tensor, Tensor, Tensor]
    furthest: int
    without_prefix: bool

    def begin(self, keywords: dict[str, Any]) -> _PooledCall:
        """See `Reader`."""
        return _PooledCall(self)


@dataclass(frozen=True)
class _Spans:
    """Which keys [begin, begin + used) each sequence of at most ``longest`` queries reads; ``empty`` is True for queries [B·G]
    that read none."""

    longest: int
    queries: Tensor
    begin: Tensor
    used: Tensor
    empty: Tensor | None = None


class _PooledCall:
    """One forward call's reading; what its layers have in common is made once (see `CallReader`)."""

    unrotated = False

    def __init__(self, reading: PooledReading) -> None:
        self.reading = reading
        self._spans: dict[tuple[int, int | None], tuple[_Spans, _Spans]] = {}

    def end(self) -> None:
        """See `CallReader`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        """See `CallReader`; key and value [lines, K, places, D] are all of the cache."""
        extras, reading = known_extras(call), self.reading
        rows, heads, kv_heads, places = *query.shape[:2], *key.shape[1:3]
        if not kernels.takes_flash(query, key, value, extras.softcap):
            raise CannotPoolError(f"flash attention does not take what layer {call.layer} reads")
        if reading.keys and reading.keys[call.layer].shape[1:] != (kv_heads, key.shape[3]):
            raise CannotPoolError(f"layer {call.layer} caches other heads than it attends to")
        # The queries of a group read the same keys, side by side: [B, H, 1, D] -> [1, K, B·G, D]
        folded = (
            query.reshape(rows, kv_heads, -1, query.shape[3]).transpose(1, 2).reshape(1, -1, *key.shape[1::2])
        )
        own, prefix = self._spans_of(heads // kv_heads, call.window, places)
        folded = folded.transpose(1, 2)
        lines = [x.transpose(1, 2).flatten(0, 1) for x in (key, value)]  # [lines · places, K, D]
        out, lse = _attended(folded, lines[0], lines[1], own, call.scale)
        if reading.keys:
            pools = (reading.keys[call.layer], reading.values[call.layer])
            other, other_lse = _attended(folded, *pools, prefix, call.scale)
            out, lse = merged_outputs(out, lse, other, other_lse)
        out = out[0].unflatten(1, (rows, -1)).transpose(0, 1).reshape(query.shape)
        if extras.sinks is not None:
            lse = lse[0].unflatten(1, (rows, -1)).transpose(0, 1).reshape(query.shape[:3])
            out, _ = with_sinks(out, lse, extras.sinks)
        return out.to(query.dtype)

    def _spans_of(self, groups: int, window: int | None, places: int) -> tuple[_Spans, _Spans]:
        """Of the rows' own keys, and of their prefixes'."""
        if window is not None and window > self.reading.furthest:
            window = None
        if (groups, window) not in self._spans:
            lines, at, first, tokens = self.reading.rows
            queries = groups * torch.arange(len(at) + 1, dtype=torch.int32, device=at.device)
            hidden = torch.zeros_like(at) if window is None else (at + 1 - window).clamp(min=0)
            own = _Spans(groups, queries, _int32(lines * places + hidden, 1), _int32(at + 1 - hidden))
            empty = None
            if window is None:
                starts, begin, used = self.reading.runs
                prefix = _Spans(groups * len(at), groups * starts, begin, used[:-1])
                if self.reading.without_prefix:
                    empty = tokens == 0
            else:
                hidden = (tokens + at + 1 - window).clamp(min=0).minimum(tokens)
                prefix = _Spans(groups, queries, _int32(first + hidden, 1), _int32(tokens - hidden))
                empty = tokens == hidden
            if empty is not None:
                empty = empty.repeat_interleave(groups, output_size=groups * len(at))
                prefix = replace(prefix, empty=empty)
            self._spans[groups, window] = own, prefix
        return self._spans[groups, window]


def _attended(
    query: Tensor, key: Tensor, value: Tensor, spans: _Spans, scale: float
) -> tuple[Tensor, Tensor]:
    """Of queries [1, K, B·G, D] over keys and values [tokens, K, D]."""
    packing = Packing(spans.queries, spans.begin, spans.longest, len(key))
    sides = (query, key.transpose(0, 1)[None], value.transpose(0, 1)[None])
    out, lse = flash_forward(*sides, scale, False, packing=packing, used=spans.used)
    return out, lse if spans.empty is None else lse.masked_fill(spans.empty, HIDDEN)


def _int32(x: Tensor, more: int = 0) -> Tensor:
    """``x`` with so many zeros behind it."""
    return torch.nn.functional.pad(x, (0, more)).int()
