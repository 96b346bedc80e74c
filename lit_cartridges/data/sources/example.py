"""One sequence for the student."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """What the student reads after its cartridge, and what it shall predict.

    Args:
        token_ids: [tokens], the last target left out, since nothing is predicted from it.
        target_rows: [answers], the places whose next token is a target, ascending.
        target_ids: [answers], those next tokens.
        top_ids, top_logprobs: the teacher's [answers, k], padded with 0 and -inf; k = 0 when there are none.
        label: what the loss is reported under, such as the seed prompt's name.
        context_ids: what the teacher read in front; needed only by full-vocabulary distillation.
    """

    token_ids: IntArray
    target_rows: IntArray
    target_ids: IntArray
    top_ids: IntArray
    top_logprobs: NDArray[np.float32]
    label: str = ""
    context_ids: tuple[int, ...] = ()

    def cut(self, num_tokens: int) -> Example:
        """The first ``num_tokens`` tokens and the targets that they predict."""
        kept = int(np.searchsorted(self.target_rows, num_tokens))
        names = ("target_rows", "target_ids", "top_ids", "top_logprobs")
        return replace(
            self, token_ids=self.token_ids[:num_tokens], **{n: getattr(self, n)[:kept] for n in names}
        )
