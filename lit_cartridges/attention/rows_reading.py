"""Rows of one batch that read different prefixes: those of one prefix lie beside each other and read it together.

So a prefix is kept once, however many rows read it, and is one product for all of them; the rows' own tokens are one more
part, and the two are merged as `merged` does it. For decoding alone: it has no backward pass.

Shapes: B rows · T new tokens of a row · M own keys of a row · P prefix tokens · H query heads · K key-value heads · D head dim
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.extras import cached_heads, known_extras
from lit_cartridges.attention.kernels import additive_mask, takes_flash
from lit_cartridges.attention.merged import with_sinks
from lit_cartridges.attention.parts import PackedPart, PrefixPart, RowsPart, SlicedPart
from lit_cartridges.attention.plain import merged_outputs
from lit_cartridges.attention.readers import LayerCall
from lit_cartridges.attention.varlen import VarlenPart, cum_seq_of

Prefix = tuple[Sequence[Tensor], ...]
"""Keys and values, per layer [kv_heads, prefix_tokens, head_dim]; where keys have a bias, these too [kv_heads, prefix_tokens]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowsReading:
    """What one forward call reads beside its own tokens, which are either one of every row, [B, 1], or the prompts of several
    rows packed into a single one, [1, tokens].

    Args:
        runs: in the order of the call's tokens, a prefix (None for none) and how many tokens in a row read it.
        positions: [tokens], counted from the prefix's first token.
        furthest: the largest of them.
        lengths: tokens of each packed prompt; None for one token of every row.
        places: [B], each row's token's among its own keys; None where it is the last one in all rows.
    """

    runs: Sequence[tuple[Prefix | None, int]]
    positions: Tensor
    furthest: int
    lengths: tuple[int, ...] | None = None
    places: Tensor | None = None

    def begin(self, keywords: dict[str, Any]) -> _RowsCall:
        """See `Reader`."""
        return _RowsCall(self)


class _RowsCall:
    """One forward call's reading; masks that its layers have in common are made once (see `CallReader`)."""

    unrotated = False

    def __init__(self, reading: RowsReading) -> None:
        self.reading = reading
        self._own: dict[int | None, Any] = {}
        self._prefix: dict[tuple[int, int, int], PrefixPart] = {}

    def end(self) -> None:
        """See `CallReader`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        """See `CallReader`."""
        extras, packed = known_extras(call), self.reading.lengths is not None
        flash = packed and takes_flash(query, key, value, extras.softcap)
        own = self._own_part(query, key, call.window, flash=flash)
        out, lse = own.attend(query, key, value, call.scale, extras.softcap)
        out, start = out.to(lse.dtype), 0
        for prefix, tokens in self.reading.runs:
            run, start = slice(start, start + tokens), start + tokens
            if prefix is None:
                continue
            here = (slice(None), slice(None), run) if packed else (run,)
            prefix_key, prefix_value = (side[call.layer].to(query)[None] for side in prefix[:2])
            bias = prefix[2][call.layer].to(query.device) if len(prefix) > 2 else None
            if (heads := cached_heads(key, value, prefix_key, prefix_value)) is not None:
                prefix_key, prefix_value = prefix_key[:, heads], prefix_value[:, heads]
                bias = None if bias is None else bias[heads]
            part = self._prefix_part(query, prefix_key, call.window, run)
            read = part.attend(query[here], prefix_key, prefix_value, call.scale, extras.softcap, bias)
            out[here], lse[here] = merged_outputs(out[here], lse[here], *read)
        if extras.sinks is not None:
            out, _ = with_sinks(out, lse, extras.sinks)
        return out.to(query.dtype)

    def _own_part(self, query: Tensor, key: Tensor, window: int | None, *, flash: bool) -> Any:
        """How a row's own tokens see each other; ``flash``: packed ones by flash attention."""
        if window not in self._own:
            lengths = self.reading.lengths
            if lengths is None:
                self._own[window] = RowsPart(causal=False, mask=self._own_mask(query, key, window))
            elif flash:
                cum_seq = cum_seq_of(lengths).to(query.device, non_blocking=True)
                self._own[window] = VarlenPart.of(cum_seq, max(lengths), window=window)
            elif query.device.type == "cpu":
                self._own[window] = SlicedPart(lengths, window)
            else:
                self._own[window] = PackedPart.of_lengths(lengths, window=window, device=query.device)
        return self._own[window]

    def _own_mask(self, query: Tensor, key: Tensor, window: int | None) -> Tensor | None:
        """[B, 1, 1, M], or None where every row sees all of its keys."""
        rows, keys, places = query.shape[0], key.shape[2], self.reading.places
        if places is None and (window is None or window >= keys):
            return None
        at = torch.arange(keys, device=query.device)
        last = torch.full((rows,), keys - 1) if places is None else places
        last = last.to(query.device)[:, None]
        hidden = at > last
        if window is not None:
            hidden |= at <= last - window
        return additive_mask(hidden[:, None, None], query.dtype)

    def _prefix_part(self, query: Tensor, key: Tensor, window: int | None, run: slice) -> PrefixPart:
        """How a run's tokens see their prefix: all of it, unless the window hides some."""
        if window is None or self.reading.furthest < window:
            return PrefixPart()
        groups = query.shape[1] // key.shape[1]
        if (id_ := (window, groups, run.start)) not in self._prefix:
            positions = self.reading.positions[run].to(query.device)[:, None]
            hidden = positions - torch.arange(key.shape[2], device=query.device) >= window
            self._prefix[id_] = PrefixPart(additive_mask(hidden, query.dtype).repeat(groups, 1)[None, None])
        return self._prefix[id_]
