"""Packed sequences by flash attention's variable-length path: no gather, no scatter, grouped heads as they are.

Shapes as in `parts`; the row [1, ·, T, D] is handed over as [T, ·, D], and its log-sum-exp comes as [H, T].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cartridges.attention.kernels import flash_backward, flash_forward
from lit_cartridges.attention.parts import require_packed


def cum_seq_of(lengths: Sequence[int]) -> Tensor:
    """Where sequences of these lengths begin in their row, and where the last one ends: [sequences + 1], int32, on the CPU."""
    return torch.tensor([0, *(n for n in lengths if n > 0)], dtype=torch.int32).cumsum(0, dtype=torch.int32)


@dataclass(frozen=True)
class VarlenPart:
    """Sequences packed one after the other, causal inside each, on tensors that `kernels.takes_flash` says yes to.

    Args:
        lengths: tokens of each sequence.
        cum_seq: `cum_seq_of` them, on the row's device; the CPU is never asked what it holds.
        window: each query sees its last ``window`` keys, itself among them; None for all.
    """

    lengths: tuple[int, ...]
    cum_seq: Tensor
    window: int | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        require_packed(query, key, sum(self.lengths))
        return flash_forward(
            *(query, key, value, scale, True),
            cum_seq=self.cum_seq,
            longest=max(self.lengths),
            window=self.window,
        )

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
            *(grad, query, key, value, out, lse, scale, True),
            cum_seq=self.cum_seq,
            longest=max(self.lengths),
            window=self.window,
        )
