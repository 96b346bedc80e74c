"""Packed rows padded to few shapes, so that what reads one reads many others by the same calls.

A row is filled up with sequences of its own that nobody reads, each of at least one token: no kernel meets an empty one. Its
answers are filled up with such as count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_cartridges.attention.varlen import cum_seq_of
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.losses import Targets

_STEPS = (
    16  # shapes between a power of two and the next: padding is below an eighth, and half of that on average
)
_LEAST = 64


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The shape of a padded row, which all that is read with it has.

    Args:
        tokens, sequences, answers: of the row.
        longest: tokens that none of its sequences exceeds.
        top_k: recorded log-probabilities of an answer token; 0 without any.
    """

    tokens: int
    sequences: int
    longest: int
    answers: int
    top_k: int

    @classmethod
    def of(cls, batch: PackedBatch) -> Bucket:
        """That of a batch; at least one of its sequences is padding."""
        lengths = [n for n in batch.lengths if n > 0]
        sequences = _power(len(lengths) + 1)
        tokens = _rounded(sum(lengths) + sequences - len(lengths))
        filling = _shares(tokens - sum(lengths), sequences - len(lengths))
        top_ids = batch.targets.top_ids
        return cls(
            tokens=tokens,
            sequences=sequences,
            longest=_power(max(*lengths, *filling)),
            answers=_rounded(len(batch.target_rows)),
            top_k=0 if top_ids is None else _power(top_ids.shape[1]),
        )

    def padded(self, batch: PackedBatch) -> PackedBatch:
        """``batch``, whose bucket this is, with padding behind its tokens, sequences and answers; on its device, which is not
        waited for."""
        lengths = tuple(n for n in batch.lengths if n > 0)
        lengths += _shares(self.tokens - sum(lengths), self.sequences - len(lengths))
        targets, device = batch.targets, batch.input_ids.device
        return replace(
            batch,
            input_ids=_filled(batch.input_ids[0], self.tokens)[None],
            position_ids=_filled(batch.position_ids[0], self.tokens)[None],
            lengths=lengths,
            cum_seq=cum_seq_of(lengths).to(device, non_blocking=True),
            target_rows=_filled(batch.target_rows, self.answers, self.tokens - 1),
            label_rows=_filled(batch.label_rows, self.answers),
            targets=Targets(
                token_ids=_filled(targets.token_ids, self.answers),
                top_ids=_top(targets.top_ids, self, 0),
                top_logprobs=_top(targets.top_logprobs, self, -torch.inf),
                teacher_hidden=_filled(targets.teacher_hidden, self.answers),
            ),
        )


def _power(n: int) -> int:
    """The power of two that is no less."""
    return 1 << (n - 1).bit_length()


def _rounded(n: int) -> int:
    step = max(_LEAST, _power(n) // _STEPS)
    return -(-n // step) * step


def _shares(tokens: int, sequences: int) -> tuple[int, ...]:
    """Lengths of so many sequences, as equal as can be."""
    each, more = divmod(tokens, sequences)
    return (each + 1,) * more + (each,) * (sequences - more)


def _filled(x: Any, rows: int, value: float = 0) -> Any:
    """With so many rows; None stays None."""
    return None if x is None else pad(x, (0, 0) * (x.ndim - 1) + (0, rows - len(x)), value=value)


def _top(x: Tensor | None, bucket: Bucket, value: float) -> Tensor | None:
    if x is None:
        return None
    return _filled(pad(x, (0, bucket.top_k - x.shape[1]), value=value), bucket.answers, value)
