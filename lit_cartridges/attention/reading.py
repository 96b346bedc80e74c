"""What a forward call reads beside its own tokens: a prefix, merged with the rows' own causal attention.

The parts that all layers of a call have in common, such as masks, are made once per call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.cache_argument import cache_among
from lit_cartridges.attention.cached_rows import rows_part
from lit_cartridges.attention.extras import cached_heads, known_extras
from lit_cartridges.attention.kernels import additive_mask, takes_flash
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PackedPart, PrefixPart, SlicedPart, require_packed
from lit_cartridges.attention.reached_prefix import ReachedPrefix
from lit_cartridges.attention.readers import LayerCall
from lit_cartridges.attention.varlen import VarlenPart, WindowedPacking, cum_seq_of, sequence_of


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What forward calls read beside their own tokens; one of them, or all that `reading_prefix` covers.

    Args:
        keys, values: per layer [kv_heads, prefix_tokens, head_dim]; None when there is no prefix.
        biases: per layer [kv_heads, prefix_tokens], added to the scaled scores of the prefix's keys; None for none.
        position_ids: [batch, tokens] of the tokens, which sliding windows are measured from; None where they follow the
            prefix one by one.
        lengths: tokens of each packed sequence, summing to the tokens of the single row; None for a padded batch.
        cum_seq: `cum_seq_of` the lengths on the tokens' device, if it is there already.
        longest: where given, ``cum_seq`` alone says where the sequences lie, none of which has more tokens than this; of
            ``lengths`` their sum is read, so that the same calls read other rows of as many tokens and sequences.
        observe: called in every layer as ``observe(layer, query, scale, window, softcap)``, with the rotated queries [batch,
            heads, tokens, head_dim], those of one key head beside each other, the factor of their scores, and the layer's
            window in tokens and soft-cap, or None.
    """

    keys: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    biases: Sequence[Tensor] | None = None
    position_ids: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    cum_seq: Tensor | None = None
    longest: int | None = None
    observe: Callable[[int, Tensor, float, int | None, float | None], None] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the prefix."""
        return 0 if self.keys is None else self.keys[0].shape[-2]

    def begin(self, keywords: dict[str, Any]) -> PrefixCall:
        """See `Reader`."""
        self.place(keywords)
        return PrefixCall(self)

    def place(self, keywords: dict[str, Any]) -> None:
        """Models that are given no positions count them from the cache, padding included: give them some."""
        if keywords.get("position_ids") is None:
            positions = _positions_by_mask(keywords, self.num_tokens)
            if positions is not None:
                keywords["position_ids"] = positions


class FixedLengthsError(RuntimeError):
    """Attention that reads a row's lengths as numbers, where they may be read from the device alone."""


class PrefixCall:
    """One forward call's reading of a prefix. What its layers have in common is made once (see `CallReader`)."""

    unrotated = False

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._own: dict[tuple[int | None, bool], Any] = {}
        self._prefix: dict[tuple[int, int], PrefixPart] = {}
        self._windows: dict[int, WindowedPacking] = {}

    def end(self) -> None:
        """See `CallReader`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        """See `CallReader`."""
        extras, reading, window = known_extras(call), self.reading, call.window
        flash = reading.lengths is not None and takes_flash(query, key, value, extras.softcap)
        if flash and reading.lengths is not None:
            require_packed(query, key, sum(reading.lengths))
        prefix_key = prefix_value = biases = prefix = heads = None
        if reading.num_tokens > 0:
            assert reading.keys is not None and reading.values is not None
            prefix_key, prefix_value = (
                side[call.layer].to(query)[None] for side in (reading.keys, reading.values)
            )
            biases = None if reading.biases is None else reading.biases[call.layer].to(query.device)
            heads = cached_heads(key, value, prefix_key, prefix_value)
        if heads is not None and prefix_key is not None and prefix_value is not None:
            prefix_key, prefix_value = prefix_key[:, heads], prefix_value[:, heads]
            biases = None if biases is None else biases[heads]
        if reading.observe is not None:
            seen = query
            if heads is not None:
                seen = query[:, heads.repeat_interleave(query.shape[1] // len(heads)).argsort(stable=True)]
            reading.observe(call.layer, seen, call.scale, window, extras.softcap)
        windowed = self.windowed(query, window) if flash and biases is None else None
        if windowed is not None and prefix_key is not None and prefix_value is not None:
            key, value = windowed.joined(prefix_key, key), windowed.joined(prefix_value, value)
            prefix_key = prefix_value = None
            own: Any = windowed.part
        else:
            own = self.own_part(query, key, call.real, window, flash=flash)
        if prefix_key is not None:
            prefix = self.prefix_part(query, key, call.real, window)
        return MergedAttention.apply(
            *(query, key, value, prefix_key, prefix_value, call.scale, own, prefix, biases), *extras
        )

    def windowed(self, query: Tensor, window: int | None) -> WindowedPacking | None:
        """How packed sequences read a prefix of which their window hides some; None where it hides none."""
        lengths, prefix_tokens = self.reading.lengths, self.reading.num_tokens
        if window is None or lengths is None or prefix_tokens == 0 or self.reading.position_ids is not None:
            return None
        longest = self._longest(lengths)
        if prefix_tokens + longest <= window:
            return None
        if window not in self._windows:
            cum_seq = self._cum_seq(lengths, query.device)
            self._windows[window] = WindowedPacking.of(
                cum_seq, longest, tokens=sum(lengths), prefix_tokens=prefix_tokens, window=window
            )
        return self._windows[window]

    def own_part(
        self, query: Tensor, key: Tensor, real: Tensor | None, window: int | None, *, flash: bool = False
    ) -> Any:
        """How the rows' own tokens see each other; ``flash``: packed ones by flash attention."""
        if (window, flash) not in self._own:
            lengths = self.reading.lengths
            if lengths is not None and flash:
                cum_seq = self._cum_seq(lengths, query.device)
                part: Any = VarlenPart.of(cum_seq, self._longest(lengths), window=window)
            elif lengths is not None and self.reading.longest is not None:
                raise FixedLengthsError("flash attention does not take its layers")
            elif lengths is not None and query.device.type == "cpu":
                part = SlicedPart(lengths, window)
            elif lengths is not None:
                part = PackedPart.of_lengths(lengths, window=window, device=query.device)
            else:
                part = rows_part(query, key, real, window)
            self._own[window, flash] = part
        return self._own[window, flash]

    def _longest(self, lengths: tuple[int, ...]) -> int:
        return max(lengths) if self.reading.longest is None else self.reading.longest

    def _cum_seq(self, lengths: tuple[int, ...], device: torch.device) -> Tensor:
        given = self.reading.cum_seq
        # Without waiting: the CPU would else stand still until the device has done all that it was given before.
        return (cum_seq_of(lengths) if given is None else given).to(device, non_blocking=True)

    def prefix_part(self, query: Tensor, key: Tensor, real: Tensor | None, window: int | None) -> PrefixPart:
        """How they see the prefix: all of it, unless the window hides some."""
        if window is None:
            return PrefixPart()
        id_ = (window, query.shape[1] // key.shape[1])
        if id_ not in self._prefix:
            self._prefix[id_] = self._window_part(query, key, real, window)
        return self._prefix[id_]

    def _window_part(self, query: Tensor, key: Tensor, real: Tensor | None, window: int) -> PrefixPart:
        positions, prefix = self._positions(query, key, real), self.reading.num_tokens
        nearest, farthest = self._reach(positions)
        if farthest < window:
            return PrefixPart()
        first = min(max(0, nearest - window + 1), prefix - 1)  # one is kept where all are hidden
        distance = positions.reshape(-1, 1) - torch.arange(first, prefix, device=query.device)
        groups = query.shape[1] // key.shape[1]
        mask = additive_mask(distance >= window, query.dtype).repeat(groups, 1)[None, None]
        return ReachedPrefix(mask, first)

    def _reach(self, positions: Tensor) -> tuple[int, int]:
        """The smallest and largest of them; a device is asked for them unless packed tokens follow the prefix one by one."""
        first = self.reading.num_tokens
        if self.reading.position_ids is None and self.reading.lengths is not None:
            return first, first + self._longest(self.reading.lengths) - 1
        nearest, farthest = torch.stack(positions.aminmax()).tolist()
        return int(nearest), int(farthest)

    def _positions(self, query: Tensor, key: Tensor, real: Tensor | None) -> Tensor:
        """[batch, tokens] of the queries, counted from the prefix's first token."""
        rows, tokens, keys = query.shape[0], query.shape[2], key.shape[2]
        if (given := self.reading.position_ids) is not None:
            # Of models that also count along images, the first of several rows counts along the text.
            return (given[0] if given.ndim == 3 else given).to(query.device).expand(rows, -1)
        if self.reading.lengths is not None:
            cum_seq = self._cum_seq(self.reading.lengths, query.device)
            own = (torch.arange(tokens, device=query.device) - cum_seq[sequence_of(cum_seq, tokens)])[None]
        elif real is None:
            own = torch.arange(keys - tokens, keys, device=query.device)[None]
        else:
            own = (real.long().cumsum(1) - 1)[:, keys - tokens :].clamp(min=0)
        return (own + self.reading.num_tokens).expand(rows, -1)


def _positions_by_mask(keywords: Mapping[str, Any], prefix_tokens: int) -> Tensor | None:
    """[batch, tokens] of a call's tokens by its padding mask [batch, prefix and held and new tokens]; None without padding."""
    tokens, mask = keywords.get("input_ids"), keywords.get("attention_mask")
    tokens = keywords.get("inputs_embeds") if tokens is None else tokens
    if tokens is None or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    new, cache = tokens.shape[1], cache_among(keywords)
    reach = new + (prefix_tokens if cache is None else int(cache.get_seq_length()))
    positions = (mask.long().cumsum(1) - 1).clamp(min=0) + max(0, reach - mask.shape[1])
    return positions[:, -new:]
