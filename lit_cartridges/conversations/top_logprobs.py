"""The teacher's most likely tokens and their log-probabilities, in rows of unequal length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Servers round log-probabilities; a certain token may come back a hair above 0.
_LOGPROB_SLACK, _MOST_MASS = 1e-3, 1.05
_MOST_K = 2**20  # no vocabulary has more ids


@dataclass(frozen=True, slots=True, eq=False)
class TopLogprobs:
    """Sparse rows, one per answer token, as HazyResearch's recordings keep them.

    Row r predicts answer token r, from everything before it. Within a row the entries go from likely to unlikely.

    Attributes:
        token_idx: int32 [entries], the row of each entry, ascending.
        token_id: int32 [entries], vocabulary ids.
        logprobs: float32 [entries], natural logarithms.
        shape: (tokens, k): rows, and the most entries that a row may have.

    Raises:
        ValueError: arrays of unequal length, rows missing or out of order, negative ids, a log-probability that is none,
            or a row whose probabilities sum to more than 1.
    """

    token_idx: NDArray[np.int32]
    token_id: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        for name, dtype in (("token_idx", np.int32), ("token_id", np.int32), ("logprobs", np.float32)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=dtype))
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1])))
        lengths = {self.token_idx.shape, self.token_id.shape, self.logprobs.shape}
        if len(lengths) != 1 or self.token_idx.ndim != 1:
            raise ValueError(
                f"top_logprobs: token_idx, token_id, logprobs must be of one length, got {sorted(lengths)}"
            )
        tokens, k = self.shape
        if np.any(np.diff(self.token_idx) < 0):
            raise ValueError("top_logprobs.token_idx must ascend: entries of one answer token stand together")
        if len(self.token_idx) and not (0 <= self.token_idx[0] and self.token_idx[-1] < tokens):
            raise ValueError(
                f"top_logprobs.token_idx must lie in 0..{tokens - 1}, the rows of shape={self.shape}"
            )
        # Before anything is made as large as the shape says.
        if not 0 <= tokens <= len(self.token_idx) or not 0 <= k <= _MOST_K:
            raise ValueError(
                f"top_logprobs.shape={self.shape} of {len(self.token_idx)} entries: every row has one, and at most {_MOST_K}"
            )
        if np.any(self.token_id < 0):
            raise ValueError("top_logprobs.token_id must be ids from 0 up")
        entries = np.bincount(self.token_idx, minlength=tokens)
        if tokens and (entries.min() < 1 or entries.max() > k):
            raise ValueError(
                f"top_logprobs: every row needs 1..{k} entries, found {entries.min()}..{entries.max()}"
            )
        if not np.all(self.logprobs <= _LOGPROB_SLACK) or np.any(np.isinf(self.logprobs)):
            raise ValueError(
                "top_logprobs.logprobs must be finite and at most 0; drop the answer that has others"
            )
        mass = np.bincount(self.token_idx, weights=np.exp(self.logprobs, dtype=np.float64), minlength=tokens)
        if mass.max(initial=0) > _MOST_MASS:
            raise ValueError(
                f"top_logprobs: the probabilities of row {mass.argmax()} sum to {mass.max():.3g}, more than 1"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopLogprobs):
            return NotImplemented
        names = ("token_idx", "token_id", "logprobs")
        return self.shape == other.shape and all(
            np.array_equal(getattr(self, n), getattr(other, n)) for n in names
        )

    @classmethod
    def from_dense(cls, token_ids: ArrayLike, logprobs: ArrayLike, *, min_mass: float = 0.99) -> TopLogprobs:
        """Cuts each row where its cumulative probability reaches `min_mass` (section 3 of arXiv 2506.06266: 0.99).

        The entry that crosses the threshold is kept, and so is at least the most likely one. A row that never gets
        there keeps all its entries (the reference implementation once kept the first only).

        Args:
            token_ids: [tokens, k], in any order within a row.
            logprobs: [tokens, k]; -inf marks padding.
            min_mass: in (0, 1].
        """
        if not 0.0 < min_mass <= 1.0:
            raise ValueError(f"min_mass={min_mass} must lie in (0, 1]; the paper's value is 0.99")
        ids, values = np.asarray(token_ids, dtype=np.int32), np.asarray(logprobs, dtype=np.float32)
        if ids.ndim != 2 or ids.shape != values.shape:
            raise ValueError(f"token_ids {ids.shape} and logprobs {values.shape} must both be [tokens, k]")
        if np.isnan(values).any():
            raise ValueError(f"logprobs hold NaN, first in row {int(np.argwhere(np.isnan(values))[0, 0])}")
        order = np.argsort(-values, axis=1, kind="stable")
        ids, values = np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
        mass = np.exp(values.astype(np.float64))
        # An entry stays while the mass BEFORE it is short of the threshold: so the one that crosses stays too.
        keep = (np.cumsum(mass, axis=1) - mass < min_mass) & ~np.isneginf(values)
        if ids.shape[1]:
            keep[:, 0] = True
        rows = np.nonzero(keep)[0].astype(np.int32)
        return cls(
            token_idx=rows, token_id=ids[keep], logprobs=values[keep], shape=(ids.shape[0], ids.shape[1])
        )

    def dense(self, k: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The ids [tokens, k] padded with 0 and logprobs [tokens, k] padded with -inf; a longer row loses its tail."""
        tokens, width = self.shape[0], self.shape[1] if k is None else k
        first_of_row = np.searchsorted(self.token_idx, np.arange(tokens))
        column = np.arange(len(self.token_idx)) - first_of_row[self.token_idx]
        fits = column < width
        ids = np.zeros((tokens, width), dtype=np.int32)
        values = np.full((tokens, width), -np.inf, dtype=np.float32)
        ids[self.token_idx[fits], column[fits]] = self.token_id[fits]
        values[self.token_idx[fits], column[fits]] = self.logprobs[fits]
        return ids, values
