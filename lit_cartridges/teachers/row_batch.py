"""Rows that are decoded together, each behind its own context, for as long as each needs.

A step is one forward call over the next token of every row. New rows first read their prompts, but for the last token, packed
into a call of their own. Rows of one context lie beside each other (`rows_reading`); the last rows of the contexts behind one
that leaves move up, one for each context.

transformers' continuous batching (5.23) was looked at first. It gives the log-probability of the chosen token and not the
top k, draws all rows from one generator, so that a reply depends on its batch, and shares a prefix by the tokens it is made
of, where what a cascade kept is no prefill of any tokens. Hence this loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.rows_cache import RowsCache
from lit_cartridges.attention.rows_reading import Prefix, RowsReading
from lit_cartridges.teachers.contexts import Contexts
from lit_cartridges.teachers.token_choice import Row, TokenChoice

_PROMPT_TOKENS = 4096  # read at once, so that memory is bounded; a longer prompt alone


class RowBatch:
    """To be used inside `reads_prefixes` and without gradients.

    Args:
        contexts: gives what rows read.
        stop_token_ids: end a reply.
    """

    def __init__(
        self, model: PreTrainedModel, contexts: Contexts, *, stop_token_ids: Collection[int]
    ) -> None:
        self.model: Any = model
        self.contexts, self.stops = contexts, frozenset(stop_token_ids)
        self._cache = RowsCache(model.config.get_text_config().num_hidden_layers)
        self.rows: list[Row] = []
        self._ids: Tensor
        self._places: Tensor
        self._positions: Tensor
        self._arrange()

    def enter(self, rows: Sequence[Row]) -> None:
        """Take rows in and read their prompts."""
        first = len(self.rows)
        self._reserve([*self.rows, *rows], max(len(row.prompt) for row in rows))
        # Those that read what the last rows read go on beside them.
        last = self.rows[-1].context if self.rows else None
        order = list(dict.fromkeys([last, *(row.context for row in rows)]))
        rows = sorted(rows, key=lambda row: order.index(row.context))
        pack: list[tuple[int, Row]] = []
        for at, row in enumerate(rows, start=first):
            if pack and sum(len(r.prompt) for _, r in pack) + len(row.prompt) > _PROMPT_TOKENS:
                self._read_prompts(pack)
                pack = []
            if len(row.prompt) > 1:
                pack.append((at, row))
        if pack:
            self._read_prompts(pack)
        self.rows = [*self.rows, *rows]
        self._arrange()

    def step(self) -> list[tuple[Row, bool]]:
        """Choose the next token of every row. Gives those that have left, and whether by a stop token."""
        reach = 1 + max(row.place for row in self.rows)
        self._reserve(self.rows, reach)
        self._cache.write(self._numbers, self._places, reach=reach)
        even = all(row.place == reach - 1 for row in self.rows)
        reading = RowsReading(
            runs=self._runs,
            positions=self._positions,
            furthest=max(row.read_tokens + row.place for row in self.rows),
            places=None if even else self._places,
        )
        logits = self._called(self.model, self._ids[:, None], self._positions[:, None], reading).logits[:, -1]
        self._ids = self._choice(logits.to(self._ids.device, torch.float32, copy=True))
        self._places, self._positions = self._places + 1, self._positions + 1
        ended: list[tuple[Row, bool]] = []
        for row, token in zip(self.rows, self._ids.tolist(), strict=True):
            row.reply.append(token)
            if token in self.stops or len(row.reply) == row.max_new_tokens:
                ended.append((row, token in self.stops))
        if ended:
            self._leave({row for row, _ in ended})
        return ended

    def _reserve(self, rows: Sequence[Row], tokens: int) -> None:
        most = max(len(row.prompt) + row.max_new_tokens - 1 for row in rows)
        self._cache.reserve(len(rows), tokens, most=most)

    def _called(self, model: Any, ids: Any, positions: Any, reading: RowsReading) -> Any:
        return model(
            ids, position_ids=positions, **cache_argument(self._cache), use_cache=True, reading=reading
        )

    def _read_prompts(self, pack: Sequence[tuple[int, Row]]) -> None:
        device, rows = self.model.device, [row for _, row in pack]
        lengths = tuple(len(row.prompt) - 1 for row in rows)
        numbers = [at for (at, _), length in zip(pack, lengths, strict=True) for _ in range(length)]
        places = torch.cat([torch.arange(length) for length in lengths])
        before = [row.read_tokens for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        positions = (places + torch.tensor(before)).to(device)
        self._cache.write(torch.tensor(numbers, device=device), places.to(device))
        reading = RowsReading(
            runs=self._runs_of(rows, lengths),
            positions=positions,
            furthest=max(row.read_tokens + length for row, length in zip(rows, lengths, strict=True)) - 1,
            lengths=lengths,
        )
        ids = torch.tensor([[token for row in rows for token in row.prompt[:-1]]], device=device)
        self._called(self.model.base_model, ids, positions[None], reading)

    def _runs_of(self, rows: Sequence[Row], tokens: Sequence[int]) -> list[tuple[Prefix | None, int]]:
        runs = groupby(zip(rows, tokens, strict=True), key=lambda pair: pair[0].context)
        return [
            (
                None if context is None else self.contexts.read(self.model, context),
                sum(count for _, count in run),
            )
            for context, run in runs
        ]

    def _leave(self, leaving: Collection[Row]) -> None:
        """Rows that stay keep their contexts' order, and as many as can their places."""
        staying = [
            [at for at, _ in run if self.rows[at] not in leaving]
            for _, run in groupby(enumerate(self.rows), key=lambda pair: pair[1].context)
        ]
        sources, targets, order, start = [], [], [], 0
        for run in staying:
            places = range(start, start + len(run))
            start += len(run)
            kept = {at for at in run if at in places}
            moving = iter([at for at in run if at not in kept])
            for place in places:
                at = place if place in kept else next(moving)
                order.append(at)
                if at != place:
                    sources.append(at)
                    targets.append(place)
        self._cache.move(sources, targets, max((self.rows[at].place for at in sources), default=0))
        self.rows = [self.rows[at] for at in order]
        self._arrange()

    def _arrange(self) -> None:
        """What steps hand to the model, for the rows that are here now."""
        self._ids = self._tensor([(row.prompt + row.reply)[-1] for row in self.rows])
        self._places = self._tensor([row.place for row in self.rows])
        self._positions = self._tensor([row.read_tokens + row.place for row in self.rows])
        self._numbers = self._tensor(range(len(self.rows)))
        self._runs = self._runs_of(self.rows, [1] * len(self.rows))
        self._choice = TokenChoice(self.rows, self.model.device)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.long, device=self.model.device)
