"""Packed sequences by flash attention's variable-length path: no mask, no padding, grouped heads as they are.

Where a sliding window hides some of a prefix, no unmasked product can read it for all tokens at once. Then `WindowedPacking`
lays the end of the prefix that a window reaches in front of each sequence's own keys, and one windowed call reads both.

Shapes as in `parts`; S sequences · R tokens of the prefix that a window reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import Packing, flash_backward, flash_forward


def sequence_of(cum_seq: Tensor, tokens: int) -> Tensor:
    """Which sequence each of a row's ``tokens`` is of, [tokens], int64; made where ``cum_seq`` lies, which is not asked."""
    places = torch.arange(tokens, dtype=cum_seq.dtype, device=cum_seq.device)
    return torch.searchsorted(cum_seq[1:], places, right=True)


def cum_seq_of(lengths: Sequence[int]) -> Tensor:
    """Where sequences of these lengths begin in their row, and where the last one ends: [S + 1], int32, on the CPU."""
    return torch.tensor([0, *(n for n in lengths if n > 0)], dtype=torch.int32).cumsum(0, dtype=torch.int32)


@dataclass(frozen=True)
class VarlenPart:
    """Sequences packed one after the other, causal inside each, on tensors that `kernels.takes_flash` says yes to.

    ``window``: each query sees its last ``window`` keys, itself among them; None for all.
    """

    packing: Packing
    window: int | None = None

    @classmethod
    def of(cls, cum_seq: Tensor, longest: int, *, reached: int = 0, window: int | None = None) -> VarlenPart:
        """``cum_seq``: on the row's device; ``longest``: tokens that no sequence exceeds; ``reached`` keys more lie in front of
        each."""
        keys = cum_seq
        if reached:
            keys = cum_seq + reached * torch.arange(len(cum_seq), dtype=torch.int32, device=cum_seq.device)
        return cls(Packing(cum_seq, keys, longest, longest + reached), window)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        return flash_forward(query, key, value, scale, True, packing=self.packing, window=self.window)

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
        return flash_backward(
            *(grad, query, key, value, out, lse, scale, True), packing=self.packing, window=self.window
        )


@dataclass(frozen=True)
class WindowedPacking:
    """Places of the keys of packed sequences, each behind its own copy of the prefix's last ``reached`` keys.

    Args:
        part: reads them.
        sources: [S·R + T], the place of each in those last keys and the row's own, joined.
        of_prefix: [S, R], where the copies of the prefix's keys lie.
        of_own: [T], where the row's own lie.
    """

    part: VarlenPart
    reached: int
    sources: Tensor
    of_prefix: Tensor
    of_own: Tensor

    @classmethod
    def of(
        cls, cum_seq: Tensor, longest: int, *, tokens: int, prefix_tokens: int, window: int
    ) -> WindowedPacking:
        """Tokens follow the prefix one by one; ``cum_seq`` and ``longest`` as in `VarlenPart`."""
        reached, sequences = min(prefix_tokens, window - 1), len(cum_seq) - 1
        part = VarlenPart.of(cum_seq, longest, reached=reached, window=window)
        first, device = part.packing.cum_seq_k, cum_seq.device
        of = sequence_of(first, sequences * reached + tokens)
        places = torch.arange(len(of), device=device)
        # A copy of the prefix's key stands in its sequence where it stands in the prefix; own keys follow all copies so far.
        inside = places - first[of]
        sources = torch.where(inside < reached, inside, places - of * reached)
        of_own = torch.arange(tokens, device=device) + (sequence_of(cum_seq, tokens) + 1) * reached
        return cls(part, reached, sources, first[:-1, None] + torch.arange(reached, device=device), of_own)

    def joined(self, prefix: Tensor, own: Tensor) -> Tensor:
        """Keys, or values, [1, K, S·R + T, D] of ``prefix`` [1, K, P, D] and ``own`` [1, K, T, D]."""
        joined: Tensor = _Joined.apply(prefix, own, self)
        return joined

    def join(self, prefix: Tensor, own: Tensor) -> Tensor:
        """`joined`, without a tape."""
        reached = prefix[0, :, prefix.shape[2] - self.reached :]
        rows = torch.cat([reached.transpose(0, 1), own[0].transpose(0, 1)])
        return rows[self.sources].transpose(0, 1)[None]

    def split(self, grad: Tensor, prefix_tokens: int) -> tuple[Tensor, Tensor]:
        """Gradients of prefix and own keys from that of `join`; of the prefix's copies they are summed in fp32."""
        rows = grad[0].transpose(0, 1)
        d_reached = rows[self.of_prefix].sum(0, dtype=torch.float32).to(rows.dtype)
        d_prefix = torch.nn.functional.pad(d_reached, (0, 0, 0, 0, prefix_tokens - self.reached, 0))
        return d_prefix.transpose(0, 1)[None], rows[self.of_own].transpose(0, 1)[None]


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prefix: Tensor, own: Tensor, packing: WindowedPacking) -> Tensor:
        ctx.packing, ctx.prefix_tokens = packing, prefix.shape[2]
        return packing.join(prefix, own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.packing.split(grads[0], ctx.prefix_tokens), None
