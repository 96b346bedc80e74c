"""What a decoding step reads and writes of its rows, on the device and at the same addresses from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_cartridges.teachers.row import Row


class Numbers(NamedTuple):
    """Of the rows in the batch's order, int64 [rows] each."""

    ids: Tensor
    """The tokens that are read next."""
    places: Tensor
    """Theirs among the row's own."""
    positions: Tensor
    drawn: Tensor
    """Tokens of the reply."""
    moves: Tensor
    """1, and 0 for rows that only fill the batch up."""
    slots: Tensor
    starts: Tensor
    """Where its prefix lies in the pool."""
    prefix: Tensor
    """Positions of that."""


class RowTable:
    """See the module. ``version`` counts how often the tensors have been made anew.

    ``uniforms`` fp64 [slots, draws] and ``temperatures`` fp32 [slots], 0 for the likeliest token, are what is drawn for rows.
    """

    now: Numbers

    def __init__(self, device: torch.device) -> None:
        self.device, self.version, self.rows = device, 0, 0
        self._free: list[int] = []
        self._make(0, 0, 0)

    def _make(self, slots: int, draws: int, top_k: int) -> None:
        self._room, rows = (slots, draws, top_k), 2 * slots  # batches are filled up
        self._numbers = torch.zeros(len(Numbers._fields), rows, dtype=torch.long, device=self.device)
        self._runs = torch.zeros(3 * (rows + 1), dtype=torch.int32, device=self.device)
        self.uniforms = torch.zeros(slots, draws, dtype=torch.float64, device=self.device)
        self.temperatures = torch.zeros(slots, dtype=torch.float32, device=self.device)
        self._top_ids = torch.zeros(rows * top_k, dtype=torch.long, device=self.device)
        self._top_logprobs = torch.zeros(rows * top_k, dtype=torch.float32, device=self.device)

    def take(self, rows: Sequence[Row]) -> None:
        """Give new rows their slots, the first of which is nobody's, and hand over what is drawn for them."""
        slots, draws, top_k = self._room
        needed, k = (
            max(sizes) for sizes in zip(*((row.max_new_tokens, row.top_k) for row in rows), strict=True)
        )
        if len(self._free) < len(rows) or needed > draws or k > top_k:
            more = max(slots, 1 + len(rows)) if len(self._free) < len(rows) else 0
            old = self._numbers, self.uniforms, self.temperatures
            self._make(slots + more, max(needed, draws), max(k, top_k))
            self._numbers[:, : 2 * slots] = old[0]
            self.uniforms[:slots, :draws] = old[1]
            self.temperatures[:slots] = old[2]
            self._free = sorted({*self._free, *range(max(1, slots), slots + more)}, reverse=True)
            self.version += 1
        for row in rows:
            row.slot = self._free.pop()
        at = self._sent(torch.tensor([row.slot for row in rows]))
        self.temperatures[at] = self._sent(
            torch.tensor([row.temperature for row in rows], dtype=torch.float32)
        )
        if any(row.uniforms is not None for row in rows):
            draws_of = np.zeros((len(rows), self._room[1]))
            for mine, row in zip(draws_of, rows, strict=True):
                mine[: row.max_new_tokens] = 0 if row.uniforms is None else row.uniforms
            self.uniforms[at] = self._sent(torch.from_numpy(draws_of))

    def leave(self, rows: Sequence[Row]) -> None:
        """Their slots are free."""
        self._free = sorted({*self._free, *(row.slot for row in rows)}, reverse=True)

    def leave_all(self) -> None:
        """All slots are free."""
        self._free = list(range(self._room[0] - 1, 0, -1))

    def arrange(self, kept: Sequence[int], new: Sequence[Row], starts: Sequence[int], *, rows: int) -> None:
        """The rows are now those of the places ``kept`` and then the new ones, filled up to ``rows``.

        Args:
            starts: where the new ones' prefixes lie.
        """
        columns: list[tuple[int, ...]] = [
            (
                (row.prompt + row.reply)[-1],
                row.place,
                row.read_tokens + row.place,
                row.launched,
                1,
                row.slot,
                start,
                row.read_tokens,
            )
            for row, start in zip(new, starts, strict=True)
        ]
        columns += [(0,) * len(Numbers._fields)] * (rows - len(kept) - len(columns))
        sent = self._sent(torch.tensor([*kept, *(x for side in zip(*columns, strict=True) for x in side)]))
        before = self._numbers[:, sent[: len(kept)]]
        after = sent[len(kept) :].view(len(Numbers._fields), -1)
        self.rows = rows
        self._numbers[:, :rows] = torch.cat([before, after], dim=1) if kept else after
        self.now = Numbers(*self._numbers[:, :rows])

    def set_runs(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """`PooledReading.runs`, at its address."""
        sent = self._sent(torch.tensor(runs, dtype=torch.int32))
        mine = self._runs[: sent.numel()].view_as(sent)
        mine.copy_(sent)
        return mine

    def advance(self, ids: Tensor) -> None:
        """``ids`` [rows] are the tokens that were chosen."""
        self.now.ids.copy_(ids)
        self._numbers[1:4, : self.rows].add_(self.now.moves)  # places, positions, drawn

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities [rows, k], at their addresses."""
        size = self.rows * k
        return self._top_ids[:size].view(self.rows, k), self._top_logprobs[:size].view(self.rows, k)

    def _sent(self, numbers: Tensor) -> Tensor:
        """On the device, without waiting until it has done what it was given before."""
        if self.device.type == "cuda":
            return numbers.pin_memory().to(self.device, non_blocking=True)
        return numbers.to(self.device)
