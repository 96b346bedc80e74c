"""Attention to held tokens and a chunk, with the weighted sum of every key's probabilities as a by-product.

Legend: R rows, KV key heads, G query heads per key head, q queries, n held columns, m = n + q keys, D head_dim.
Probabilities are computed once, in fp32, for a block of queries at a time; both the output and the sums are read off them,
so scores cost one product of a vector and a matrix per head, and no second softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lit_cartridges.attention.extras import PLAIN, AttentionExtras
from lit_cartridges.attention.plain import without_autocast

# Probabilities held at a time, over all rows and heads: 4 MiB in fp32, which a CPU's cache keeps, and 256 MiB elsewhere.
BLOCK_ELEMENTS = {"cpu": 2**20}
_OTHER_ELEMENTS = 2**26


@dataclass(frozen=True, kw_only=True)
class ChunkLayout:
    """Where the tokens of one chunk and the columns they see stand; the same in all layers of one shape.

    Args:
        held: n, the held columns; column j is at position j.
        stored: [R] how many of them a row uses, or None when every row uses all.
        positions: [R, q] positions of the chunk's tokens.
        real: [R, q] False where the chunk is padding, or None when nothing is.
        weights: [R, q] fp32, how much each query counts in the sums; 0 where padded.
        limit: one more than the largest position.
    """

    held: int
    stored: Tensor | None
    positions: Tensor
    real: Tensor | None
    weights: Tensor
    limit: int

    @cached_property
    def places(self) -> Tensor:
        """Positions of all n + q keys, and -1 for a key that no query sees: int32 [R, n + q]."""
        R, q = self.positions.shape
        held = torch.arange(self.held, device=self.positions.device).expand(R, self.held)
        if self.stored is not None:
            held = held.where(held < self.stored[:, None], -1)
        own = self.positions if self.real is None else self.positions.where(self.real, -1)
        return torch.cat([held, own], dim=1).int()

    def hidden(self, start: int, stop: int, window: int | None) -> Tensor | None:
        """Which of the keys ..held + stop the queries start..stop do not see: bool [R or 1, queries, last keys].

        The last keys are the chunk's if nothing else is hidden, or all of them. None: nothing is hidden.
        """
        n, device = self.held, self.positions.device
        if window is not None and self.limit <= window:
            window = None
        if stop - start == 1 and stop == 1 and self.stored is None and self.real is None and window is None:
            return None
        own = torch.arange(stop, device=device)
        hidden = (own > own[start:, None])[None]  # (1, queries, the chunk's keys): causal
        if self.stored is None and self.real is None and window is None:
            return hidden
        column = torch.arange(n + stop, device=device)
        hidden = torch.nn.functional.pad(hidden, (n, 0))
        if self.stored is not None:
            hidden = hidden | ((column >= self.stored[:, None]) & (column < n))[:, None]
        if self.real is not None:
            unreal = torch.nn.functional.pad(~self.real[:, :stop], (n, 0))
            hidden = hidden | unreal[:, None]
        if window is not None:
            R = len(self.positions)
            keys = torch.cat([column[:n].expand(R, n), self.positions[:, :stop]], dim=1)
            hidden = hidden | (self.positions[:, start:stop, None] - keys[:, None] >= window)
        return hidden


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: ChunkLayout,
    scale: float,
    window: int | None,
    extras: AttentionExtras = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Attention of a chunk to [held | chunk], causal inside the chunk.

    Args:
        query: [R, KV·G, q, D], rotated at ``layout.positions``.
        key, value: [R, KV, n + q, D], keys rotated: held ones at 0..n-1, the chunk's at ``layout.positions``.
        window: a sliding-window layer's width; keys at that distance in positions, or farther, are not seen.
        extras: a soft-cap of the scores, and sinks, which take their share of the probabilities: the keys' own sum to
            less than 1.

    Returns:
        Output [R, KV·G, q, D] in the values' dtype, and fp32 sums [R, KV·G, n + q]: Σ_a weights_a · p_{a,j} per key j.
        What a padded query gives is finite and means nothing.
    """
    R, heads, q, D = query.shape
    KV, m = key.shape[1], key.shape[2]
    G = heads // KV
    grouped = query.view(R, KV, G, q, D).float() * scale
    # Law 8: a 16-bit product would round the logits, and with them the scores.
    key_t = key.float().transpose(2, 3)  # (R, KV, D, m)
    out = value.new_empty(R, KV, G, q, value.shape[-1])
    sums = torch.zeros(R, KV, G, m, dtype=torch.float32, device=query.device)
    block = max(1, BLOCK_ELEMENTS.get(query.device.type, _OTHER_ELEMENTS) // (R * heads * m))
    for start in range(0, q, block):
        stop = min(q, start + block)
        seen = m - q + stop  # later keys are the future of all of the block
        with without_autocast(query):
            logits = grouped[:, :, :, start:stop].reshape(R, KV, -1, D) @ key_t[..., :seen]
        logits = logits.view(R, KV, G, stop - start, seen)
        if extras.softcap is not None:
            logits = extras.softcap * torch.tanh(logits / extras.softcap)
        hidden = layout.hidden(start, stop, window)
        if hidden is not None:
            part = logits[..., seen - hidden.shape[-1] :]
            part.masked_fill_(hidden[:, None, None], torch.finfo(torch.float32).min)
        p = probabilities(logits, extras.sinks)  # (R, KV, G, queries, keys)
        weights = layout.weights[:, None, None, None, start:stop]
        with without_autocast(query):
            sums[..., :seen] += (weights @ p).squeeze(3)
        mixed = p.to(value.dtype).flatten(2, 3) @ value[:, :, :seen]
        out[:, :, :, start:stop] = mixed.view(R, KV, G, stop - start, -1)
    return out.flatten(1, 2), sums.flatten(1, 2)


def probabilities(logits: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over ``logits`` [R, KV, G, queries, keys] and each head's sink, without the sink's own."""
    p = logits.softmax(dim=-1)
    if sinks is None:
        return p
    column = sinks.float().view(logits.shape[1], logits.shape[2], 1, 1)
    return p * torch.sigmoid(logits.logsumexp(-1, keepdim=True) - column)
