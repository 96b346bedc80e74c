"""The own keys of rows that hold some from earlier calls: a long text read in windows, a prompt behind others, decoding.

No mask of size [new tokens, all keys] is made, so memory is linear in the keys, and what takes no mask may run on a fused
kernel. In a layer that sees everything, the cached keys are one part that every new token sees, and the new keys are another,
causal; both are merged by their log-sum-exp. Padding hides keys from whole rows: [B, 1, 1, cached] and [B, 1, T, T].

A sliding window cuts through the cached keys, so there is nothing to split off. Its layers read block by block the keys
that a block can see, behind a mask [block, block + window - 1].

Shapes: query [B, H, T, D] · key, value [B, K, M, D], the last T of the M keys new · lse [B, H, T] · real [B, M]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import additive_mask, attend, attend_backward
from lit_cartridges.attention.parts import Part, RowsPart
from lit_cartridges.attention.plain import merged_outputs, wide_dtype

_SMALLEST_BLOCK_TOKENS = 256  # smaller ones cost more in calls than they save in keys


def rows_part(query: Tensor, key: Tensor, real: Tensor | None, window: int | None) -> Part:
    """How the new tokens of rows see the rows' keys; ``real`` is True where a key is no padding, None where none is."""
    tokens, cached = query.shape[2], key.shape[2] - query.shape[2]
    if window is not None and window < key.shape[2]:
        return BandPart(window, real)
    if real is None and cached == 0:
        return RowsPart(causal=True)
    if real is None and tokens == 1:
        return RowsPart(causal=False)
    if cached == 0 or tokens == 1:
        return RowsPart(causal=False, mask=_mask(tokens, key.shape[2], None, real, query))
    if real is None:
        return CachedPart(RowsPart(causal=True))
    new = RowsPart(causal=False, mask=_mask(tokens, tokens, None, real[:, cached:], query))
    return CachedPart(new, additive_mask(~real[:, None, None, :cached].bool(), query.dtype))


@dataclass(frozen=True)
class CachedPart:
    """Cached keys that every new token of a row sees, and ``new`` ones; ``mask`` [B, 1, 1, cached] hides padding."""

    new: Part
    mask: Tensor | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        old, new = _split(query, key)
        out, lse = self.new.attend(query, key[:, :, new], value[:, :, new], scale, softcap)
        old_out, old_lse = attend(
            *(_by_kv_head(query, key), key[:, :, old], value[:, :, old], scale),
            mask=self.mask,
            softcap=softcap,
        )
        return merged_outputs(out, lse, old_out.reshape(out.shape), old_lse.reshape(lse.shape))

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
        softcap: float | None = None,
    ) -> tuple[Tensor, ...]:
        old, new = _split(query, key)
        d_query, *d_new = self.new.gradients(
            *(grad, query, key[:, :, new], value[:, :, new], out, lse, scale, softcap)
        )
        folded_lse = _by_kv_head(lse.unsqueeze(-1), key).squeeze(-1)
        d_folded, *d_old = attend_backward(
            *(_by_kv_head(grad, key), _by_kv_head(query, key), key[:, :, old], value[:, :, old]),
            *(_by_kv_head(out, key), folded_lse, scale),
            mask=self.mask,
            softcap=softcap,
        )
        d_key, d_value = (torch.cat(sides, 2) for sides in zip(d_old, d_new, strict=True))
        return d_query + d_folded.reshape(query.shape), d_key, d_value


@dataclass(frozen=True)
class BandPart:
    """Keys of which each token sees its own and the ``window`` - 1 before it; ``real`` [B, M] is False for padding."""

    window: int
    real: Tensor | None = None
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        lse = query.new_empty(query.shape[:-1], dtype=wide_dtype(query))
        for rows, keys, causal, mask in self._blocks(query, key):
            part = attend(
                *(query[:, :, rows], key[:, :, keys], value[:, :, keys], scale),
                causal=causal,
                mask=mask,
                softcap=softcap,
            )
            out[:, :, rows], lse[:, :, rows] = part
        return out, lse

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
        softcap: float | None = None,
    ) -> tuple[Tensor, ...]:
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros_like(x, dtype=wide_dtype(query)) for x in (key, value))
        for rows, keys, causal, mask in self._blocks(query, key):
            own_grad, own_query, own_out, own_lse = (x[:, :, rows] for x in (grad, query, out, lse))
            d_query[:, :, rows], more_key, more_value = attend_backward(
                *(own_grad, own_query, key[:, :, keys], value[:, :, keys], own_out, own_lse, scale),
                causal=causal,
                mask=mask,
                softcap=softcap,
            )
            d_key[:, :, keys] += more_key  # neighbouring blocks share keys
            d_value[:, :, keys] += more_value
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype)

    def _blocks(self, query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, bool, Tensor | None]]:
        """Places of a block's queries and of the keys that they may see, and how: causally, or behind a mask, or all."""
        tokens, cached = query.shape[2], key.shape[2] - query.shape[2]
        size = max(self.window, _SMALLEST_BLOCK_TOKENS)
        for start in range(0, tokens, size):
            rows = slice(start, min(start + size, tokens))
            keys = slice(max(0, cached + start - self.window + 1), cached + rows.stop)
            count, reach = rows.stop - start, keys.stop - keys.start
            if self.real is None and reach <= self.window and count in (1, reach):
                yield rows, keys, count == reach, None
            else:
                yield rows, keys, False, self._mask_of(count, keys, query)

    def _mask_of(self, count: int, keys: slice, like: Tensor) -> Tensor:
        """Kept, since blocks and layers have them in common: without padding it depends on the sizes alone."""
        real = None if self.real is None else self.real[:, keys]
        id_ = (count, keys.stop - keys.start, -1 if real is None else keys.start)
        if id_ not in self._masks:
            self._masks[id_] = _mask(count, keys.stop - keys.start, self.window, real, like)
        return self._masks[id_]


def _split(query: Tensor, key: Tensor) -> tuple[slice, slice]:
    cached = key.shape[2] - query.shape[2]
    return slice(0, cached), slice(cached, None)


def _by_kv_head(x: Tensor, key: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, K, G·T, D]: the queries of a group read the same keys, which are then not repeated."""
    return x.reshape(len(x), key.shape[1], -1, x.shape[-1])


def _mask(tokens: int, keys: int, window: int | None, real: Tensor | None, like: Tensor) -> Tensor:
    """Additive causal mask [1 or B, 1, tokens, keys], whose last ``tokens`` keys are the tokens' own."""
    places = torch.arange(keys, device=like.device)
    distance = places[keys - tokens :, None] - places
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    hidden = hidden[None, None]
    if real is not None:
        hidden = hidden | ~real[:, None, None, :].bool()
    return additive_mask(hidden, like.dtype)
