"""The sets of keys that `merged_attention` merges: a shared prefix, and the own keys of padded or packed rows.

Shapes, everywhere below:
    B rows · T query tokens of a row · M own keys of a row (M ≥ T when some are cached) · P prefix tokens
    H query heads · K key-value heads · G = H / K · D head dim
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import additive_mask, attend, attend_backward, takes_flash
from lit_cartridges.attention.plain import HIDDEN, wide_dtype


class Part(Protocol):
    """One set of keys that the queries attend to."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output [B, H, T, D] and log-sum-exp [B, H, T] (fp32) of the attention over this part alone."""
        ...

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
        """Gradients of query, key and value through this part, given the merged ``out`` and ``lse``."""
        ...


@dataclass(frozen=True)
class PrefixPart:
    """Keys [1, K, P, D] that every row sees; ``mask`` is additive, [1, 1, G·B·T, P], or None when all see all."""

    mask: Tensor | None = None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        softcap: float | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Part.attend`; ``bias`` [K, P] is added to the scores behind the cap."""
        if len(query) == 1 and takes_flash(query, key, value, self.mask, softcap, bias):
            return attend(query, key, value, scale)
        rows, kv_heads = query.shape[0], key.shape[1]
        out, lse = attend(
            _fold(query, kv_heads), key, value, scale, mask=self.mask, softcap=softcap, bias=bias
        )
        lse = _unfold(lse.unsqueeze(-1), rows, query.shape[1]).squeeze(-1)
        return _unfold(out, rows, query.shape[1]), lse

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
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """As `Part.gradients`; that of the bias comes last, if there is one."""
        if len(query) == 1 and takes_flash(query, key, value, self.mask, softcap, bias):
            return attend_backward(grad, query, key, value, out, lse, scale)
        rows, kv_heads = query.shape[0], key.shape[1]
        fold_lse = _fold(lse.unsqueeze(-1), kv_heads).squeeze(-1)
        fold_query, fold_grad, fold_out = (_fold(x, kv_heads) for x in (query, grad, out))
        d_query, *others = attend_backward(
            *(fold_grad, fold_query, key, value, fold_out, fold_lse, scale),
            mask=self.mask,
            softcap=softcap,
            bias=bias,
        )
        return _unfold(d_query, rows, query.shape[1]), *others


@dataclass(frozen=True)
class RowsPart:
    """Keys [B, K, M, D] of the rows themselves: ``causal`` (T = M), or an additive ``mask`` [B, 1, T, M], or all."""

    causal: bool
    mask: Tensor | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        return attend(query, key, value, scale, causal=self.causal, mask=self.mask, softcap=softcap)

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
        return attend_backward(
            *(grad, query, key, value, out, lse, scale),
            causal=self.causal,
            mask=self.mask,
            softcap=softcap,
        )


@dataclass(frozen=True)
class PackedPart:
    """Sequences packed one after the other into a single row [1, ·, T, D], causal inside each; where flash attention cannot.

    Sequences of similar length are laid side by side, so that the attention inside them is a few causal batches.
    ``buckets`` holds for each batch the token indices [sequences, longest], -1 where a sequence has ended, and ``filled``
    which of its places have a token, counted through its rows.
    """

    buckets: tuple[Tensor, ...]
    filled: tuple[Tensor, ...]
    window: int | None
    tokens: int

    @classmethod
    def of_lengths(
        cls, lengths: Sequence[int], *, window: int | None = None, device: torch.device
    ) -> PackedPart:
        """Buckets by the next power of two, which wastes less than half of the (cheap) inner attention."""
        starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
        groups: dict[int, list[tuple[int, int]]] = {}
        for start, length in zip(starts, lengths, strict=False):
            if length > 0:
                groups.setdefault((length - 1).bit_length(), []).append((start, length))
        buckets, filled = [], []
        for group in groups.values():
            longest = max(length for _, length in group)
            offsets = torch.arange(longest)
            first = torch.tensor([start for start, _ in group])[:, None]
            count = torch.tensor([length for _, length in group])[:, None]
            buckets.append(torch.where(offsets < count, first + offsets, -1))
            # Counted here: a device would have to be asked how many they are.
            filled.append(
                torch.cat([torch.arange(length) + row * longest for row, (_, length) in enumerate(group)])
            )
        there, filled_there = ([x.to(device, non_blocking=True) for x in side] for side in (buckets, filled))
        return cls(tuple(there), tuple(filled_there), window, sum(lengths))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        require_packed(query, key, self.tokens)
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        lse = query.new_empty(query.shape[:-1], dtype=wide_dtype(query))
        for bucket, filled in zip(self.buckets, self.filled, strict=True):
            mask = _window_mask(bucket.shape[1], self.window, query)
            own_query, own_key, own_value = (_gather(x, bucket) for x in (query, key, value))
            part, part_lse = attend(
                own_query, own_key, own_value, scale, causal=mask is None, mask=mask, softcap=softcap
            )
            _scatter(out, part, bucket, filled)
            _scatter(lse.unsqueeze(-1), part_lse.unsqueeze(-1), bucket, filled)
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
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for bucket, filled in zip(self.buckets, self.filled, strict=True):
            mask = _window_mask(bucket.shape[1], self.window, query)
            ended = (bucket < 0)[:, None, :]
            # Places past a sequence's end repeat token 0: no gradient enters there, and an infinite lse gives them
            # no probability.
            bucket_grad = _gather(grad, bucket).masked_fill(ended.unsqueeze(-1), 0)
            bucket_lse = _gather(lse.unsqueeze(-1), bucket).squeeze(-1).masked_fill(ended, -HIDDEN)
            own_query, own_key, own_value, own_out = (_gather(x, bucket) for x in (query, key, value, out))
            parts = attend_backward(
                *(bucket_grad, own_query, own_key, own_value, own_out, bucket_lse, scale),
                causal=mask is None,
                mask=mask,
                softcap=softcap,
            )
            for whole, part in zip(grads, parts, strict=True):
                _scatter(whole, part, bucket, filled)
        return grads


@dataclass(frozen=True)
class SlicedPart:
    """`PackedPart` with each sequence a view of the row; on the CPU, gathering costs more than the calls it saves."""

    lengths: tuple[int, ...]
    window: int | None = None

    def _rows(self) -> Iterator[slice]:
        stop = 0
        for length in self.lengths:
            start, stop = stop, stop + length
            if length > 0:
                yield slice(start, stop)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        require_packed(query, key, sum(self.lengths))
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        lse = query.new_empty(query.shape[:-1], dtype=wide_dtype(query))
        for rows in self._rows():
            mask = _window_mask(rows.stop - rows.start, self.window, query)
            own_query, own_key, own_value = (x[:, :, rows] for x in (query, key, value))
            part = attend(
                own_query, own_key, own_value, scale, causal=mask is None, mask=mask, softcap=softcap
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
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for rows in self._rows():
            mask = _window_mask(rows.stop - rows.start, self.window, query)
            own_grad, own_query, own_key, own_value, own_out, own_lse = (
                x[:, :, rows] for x in (grad, query, key, value, out, lse)
            )
            parts = attend_backward(
                *(own_grad, own_query, own_key, own_value, own_out, own_lse, scale),
                causal=mask is None,
                mask=mask,
                softcap=softcap,
            )
            for whole, part in zip(grads, parts, strict=True):
                whole[:, :, rows] = part
        return grads


def require_packed(query: Tensor, key: Tensor, tokens: int) -> None:
    """Raise ValueError unless the sequences fill the one row; what they leave out would be read from anywhere."""
    if query.shape[0] != 1 or query.shape[2] != tokens or key.shape[2] != tokens:
        raise ValueError(
            f"lengths of packed sequences sum to {tokens}; the call has {query.shape[0]} rows of {query.shape[2]} tokens and "
            f"{key.shape[2]} keys, where it takes one row of {tokens} and no cache"
        )


def _fold(x: Tensor, kv_heads: int) -> Tensor:
    """[B, H, T, D] -> [1, K, G·B·T, D]: every query that reads the same prefix head, in one list."""
    rows, heads, tokens, dim = x.shape
    x = x.reshape(rows, kv_heads, heads // kv_heads, tokens, dim).permute(1, 2, 0, 3, 4)
    return x.reshape(1, kv_heads, -1, dim)


def _unfold(x: Tensor, rows: int, heads: int) -> Tensor:
    """[1, K, G·B·T, D] -> [B, H, T, D]."""
    _, kv_heads, _, dim = x.shape
    x = x.reshape(kv_heads, heads // kv_heads, rows, -1, dim).permute(2, 0, 1, 3, 4)
    return x.reshape(rows, heads, -1, dim)


def _gather(x: Tensor, bucket: Tensor) -> Tensor:
    """[1, H, T, D] -> [sequences, H, longest, D]."""
    return x[0].transpose(0, 1)[bucket.clamp(min=0)].transpose(1, 2)


def _scatter(whole: Tensor, part: Tensor, bucket: Tensor, filled: Tensor) -> None:
    """Write [sequences, H, longest, D] back to its places in [1, H, T, D]."""
    rows = part.transpose(1, 2).flatten(0, 1)[filled]
    whole[0].transpose(0, 1)[bucket.flatten()[filled]] = rows.to(whole.dtype)


def _window_mask(longest: int, window: int | None, like: Tensor) -> Tensor | None:
    """Additive causal mask [1, 1, longest, longest] of a sliding window, or None where the window hides nothing."""
    if window is None or window >= longest:
        return None
    distance = torch.arange(longest, device=like.device)
    distance = distance[:, None] - distance
    hidden = (distance < 0) | (distance >= window)
    return additive_mask(hidden[None, None], like.dtype)
