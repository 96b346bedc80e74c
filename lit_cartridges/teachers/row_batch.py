"""Rows that are decoded together, each behind its own context, for as long as each needs.

New rows first read their prompts, but for the last token, packed into a call of their own; then `decoding_steps` gives every
row a token at a time. Rows of one context lie beside each other. Where steps have static shapes, the tokens of one are read
when the next has been launched, so that the device does not wait for Python; a row that has stopped is then decoded once
more, for nobody.

transformers' continuous batching (read in 5.23) has a paged cache, prefixes found by their tokens, CUDA graphs, and a step's
tokens read during the next one: an engine for a teacher that is greedy and records nothing. It gives the log-probability of
the chosen token, after temperature, and not the top k; draws either all rows or none, from one generator, so that a reply depends
on its batch; and reads no keys and values that come from elsewhere, a cartridge's or what a cascade kept. Hence this loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from transformers import PreTrainedModel

from lit_cartridges.teachers.decoding_steps import DecodingSteps, Launched, ReadsContexts
from lit_cartridges.teachers.row import Row

_PROMPT_TOKENS = 4096  # read at once, so that memory is bounded; a longer prompt alone


class RowBatch:
    """To be used inside `reads_prefixes` and without gradients, after `begin`.

    Args:
        contexts: gives what rows read.
        options: of `DecodingSteps`.
    """

    def __init__(self, model: PreTrainedModel, contexts: ReadsContexts, **options: Any) -> None:
        self.contexts, self.steps = contexts, DecodingSteps(model, contexts, **options)
        self.rows: list[Row] = []
        self._launched: list[Launched] = []

    def begin(self, stop_token_ids: Collection[int]) -> None:
        """Be as new, but for what is kept at its address.

        Args:
            stop_token_ids: end a reply.
        """
        self._launched, self.rows, self.stops = [], [], frozenset(stop_token_ids)
        self.steps.begin()

    def enter(self, rows: Sequence[Row]) -> None:
        """Take rows in and read their prompts."""
        # Those that read what the last rows read go on beside them.
        last = self.rows[-1].context if self.rows else None
        order = list(dict.fromkeys([last, *(row.context for row in rows)]))
        rows = sorted(rows, key=lambda row: order.index(row.context))
        self.steps.table.take(rows)
        try:
            self._read(rows)
        except BaseException:
            self.steps.table.leave(rows)
            raise
        kept, self.rows = range(len(self.rows)), [*self.rows, *rows]
        self.steps.arrange(self.rows, kept, rows)

    def _read(self, rows: Sequence[Row]) -> None:
        """The prompts of rows that enter."""
        self.steps.reserve([*self.rows, *rows], max(len(row.prompt) for row in rows))
        pack: list[tuple[int, Row]] = []
        for at, row in enumerate(rows, start=len(self.rows)):
            if pack and sum(len(r.prompt) for _, r in pack) + len(row.prompt) > _PROMPT_TOKENS:
                self.steps.read_prompts(pack)
                pack = []
            if len(row.prompt) > 1:
                pack.append((row.slot if self.steps.pooled else at, row))
        if pack:
            self.steps.read_prompts(pack)

    def step(self) -> list[tuple[Row, bool]]:
        """Launch the choice of every row's next token. Gives those that are known to have ended, and whether by a stop token."""
        self._launched.append(self.steps.launch())
        # Those that end by their length do so now: they have no place for a token more.
        lags = self.steps.pooled and not self.steps.choice.limited
        later = self._launched[-1:] if lags and all(r.launched < r.max_new_tokens for r in self.rows) else []
        due = self._launched[: len(self._launched) - len(later)]
        self._launched, ended = later, [end for launched in due for end in self._ends(launched)]
        if ended:
            self.leave({row for row, _ in ended})
        return ended

    def _ends(self, launched: Launched) -> list[tuple[Row, bool]]:
        """Read a step. Rows that ended before it have been decoded for nobody."""
        tokens, *top = launched.read()
        ended = []
        for at, row in enumerate(launched.rows):
            if row.ended:
                continue
            row.reply.append(token := int(tokens[at]))
            if row.top_k:
                row.top.append((top[0][at, : row.top_k], top[1][at, : row.top_k]))
            row.ended = token in self.stops or len(row.reply) == row.max_new_tokens
            if row.ended:
                ended.append((row, token in self.stops))
        return ended

    def leave(self, leaving: Collection[Row]) -> None:
        """Let these go, before their end too. Rows that stay keep their contexts' order; lines move up where they must lie
        side by side, as few as can."""
        self.steps.table.leave(list(leaving))
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
        if not self.steps.pooled:
            self.steps.cache.move(sources, targets, max((self.rows[at].place for at in sources), default=0))
        self.rows = [self.rows[at] for at in order]
        self.steps.arrange(self.rows, order, [])
