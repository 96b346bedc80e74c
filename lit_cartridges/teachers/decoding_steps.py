"""What a batch does on the device: reads prompts, and decodes a token of every row.

A step is one forward call over the next token of every row, the choice of the one after it and what is recorded of that. What it
needs of the rows lies on the device (`row_table`). Where flash attention reads them (`pooled_reading`), every step of as many
rows is the same list of operators at the same addresses, so it is a CUDA graph (`models.step_graphs`). Elsewhere (`rows_reading`)
shapes follow the rows, whose lines of the cache must then lie side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import kernels
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.pooled_reading import CannotPoolError, PooledReading
from lit_cartridges.attention.prefix_pool import PrefixPool
from lit_cartridges.attention.readers import Reader
from lit_cartridges.attention.rows_cache import RowsCache
from lit_cartridges.attention.rows_reading import Prefix, RowsReading
from lit_cartridges.models.step_graphs import StepGraphs
from lit_cartridges.teachers.contexts import Context
from lit_cartridges.teachers.row import Row
from lit_cartridges.teachers.row_table import RowTable
from lit_cartridges.teachers.token_choice import TokenChoice

_HALVES = (torch.bfloat16, torch.float16)
_PLACES = 64


@dataclass
class Launched:
    """A step's rows and, on their way to the host, its tokens [rows] and what is recorded of them [rows, k]."""

    rows: list[Row]
    chosen: list[Tensor]
    ready: Any

    def read(self) -> list[Any]:
        if self.ready is not None:
            self.ready.synchronize()
        return [x.numpy() for x in self.chosen]


class ReadsContexts(Protocol):
    """What stands in front of rows, by what they call it (see `Contexts`)."""

    pool: PrefixPool[Any] | None

    def read(self, model: PreTrainedModel, context: Any) -> Prefix:
        """Its keys and values."""
        ...

    def keep(self, contexts: Collection[Any], reader: object) -> None:
        """Give back those of others."""


class DecodingSteps:
    """To be used inside `reads_prefixes` and without gradients, after `begin`.

    Args:
        contexts: gives what rows read.
        choice: what chooses the rows' next tokens.
        pools: use static shapes where they can be.

    Attributes:
        pooled: steps have static shapes, and read `contexts.pool`.
        table: of the rows; who takes rows in or lets them go says so there.
        choice: of the rows that are arranged.
    """

    choice: TokenChoice

    def __init__(
        self,
        model: PreTrainedModel,
        contexts: ReadsContexts,
        *,
        choice: type[TokenChoice] = TokenChoice,
        pools: bool = True,
    ) -> None:
        self._new_choice = choice
        self.model: Any = model
        self.contexts = contexts
        self.pooled = pools and _may_pool(model)
        if self.pooled and contexts.pool is None:
            contexts.pool = PrefixPool()
        self.pool = contexts.pool
        self.cache = RowsCache(model.config.get_text_config().num_hidden_layers)
        self.table = RowTable(model.device)
        self.rows: list[Row] = []
        self.graphs = StepGraphs(model)

    def begin(self) -> None:
        """There are no rows. The weights may have moved."""
        self.rows = []
        self.table.leave_all()
        self._weights = hash(tuple(x.data_ptr() for x in self.model.parameters()))

    def launch(self) -> Launched:
        """Choose the next token of every row."""
        reach = 1 + max(row.place for row in self.rows)
        self.reserve(self.rows, reach)
        if self.pooled:
            try:
                self._run_pooled()
            except CannotPoolError as error:
                self._stop_pooling(str(error))
        if not self.pooled:
            self._step(self._rows_reading(reach), seen=(len(self.rows), reach))
        for row in self.rows:
            row.launched += 1
        # Copies: the next step writes over what it reads. Pinned by themselves.
        k, sides = self.choice.top_k, [self.table.now.ids]
        sides += self.table.top(k) if k else ()
        chosen = [x.to("cpu", non_blocking=True, copy=True) for x in sides]
        ready = torch.cuda.Event() if self.model.device.type == "cuda" else None
        if ready is not None:
            ready.record()
        return Launched(self.rows, chosen, ready)

    def reserve(self, rows: Sequence[Row], tokens: int) -> None:
        """Make room for so many tokens of each of these."""
        most = max(len(row.prompt) + row.max_new_tokens - 1 for row in rows)
        if not self.pooled:
            self.cache.reserve(len(rows), tokens, most=most)
            return
        # Every growth makes graphs anew: by whole buckets, of rows and of tokens.
        lines, most = 1 + _bucket(max(row.slot for row in rows)), -(-most // _PLACES) * _PLACES
        self.cache.reserve(lines, tokens, most=most)

    def read_prompts(self, pack: Sequence[tuple[int, Row]]) -> None:
        """All but their last tokens, in one call: of rows with their lines in the cache."""
        device, rows = self.model.device, [row for _, row in pack]
        lengths = tuple(len(row.prompt) - 1 for row in rows)
        lines = [line for (line, _), length in zip(pack, lengths, strict=True) for _ in range(length)]
        places = torch.cat([torch.arange(length) for length in lengths])
        before = [row.read_tokens for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        positions = (places + torch.tensor(before)).to(device)
        self.cache.write(torch.tensor(lines, device=device), places.to(device))
        reading = RowsReading(
            runs=self._runs_of(rows, lengths),
            positions=positions,
            furthest=max(row.read_tokens + length for row, length in zip(rows, lengths, strict=True)) - 1,
            lengths=lengths,
        )
        ids = torch.tensor([[token for row in rows for token in row.prompt[:-1]]], device=device)
        self._called(self.model.base_model, ids, positions[None], reading)

    def arrange(self, rows: list[Row], kept: Sequence[int], new: Sequence[Row]) -> None:
        """Steps are now of ``rows``: those that were at the places ``kept``, and new ones."""
        self.rows, count = rows, len(rows)
        if count == 0:
            return
        self.choice = self._new_choice(self.rows, self.model.device, picks=not self.pooled)
        if not self.pooled:
            self._runs = self._runs_of(self.rows, [1] * count)
            self._lines = torch.arange(count, device=self.model.device)
            self.table.arrange(kept, new, [0] * len(new), rows=count)
            return
        self._runs_of(new, [1] * len(new))  # into the pool
        size = _bucket(count)
        self.table.arrange(kept, new, [self._span(row.context).start for row in new], rows=size)
        self._without_prefix = any(row.context is None for row in self.rows)
        self._furthest = _bucket(
            max(row.read_tokens + len(row.prompt) + row.max_new_tokens for row in self.rows)
        )
        contexts = [(context, len(list(run))) for context, run in groupby(row.context for row in self.rows)]
        begins, spans = [0], []
        for context, readers in contexts:
            begins.append(begins[-1] + readers)
            spans.append(self._span(context))
        begins[-1] = size  # what fills the batch up reads with the last run
        more = _bucket(len(spans)) - len(spans)
        self._spans = self.table.set_runs(
            [
                [*begins, *[size] * more],
                [*(span.start for span in spans), *[0] * (more + 1)],
                [*(span.stop - span.start for span in spans), *[0] * (more + 1)],
            ]
        )

    def _step(self, reading: Reader, *, seen: tuple[int, int]) -> None:
        """One forward call, what it chooses, and on to the next token: all on the device. Only the end changes what it reads."""
        now = self.table.now
        self.cache.write(now.slots if self.pooled else self._lines, now.places, seen=seen)
        logits = self._called(self.model, now.ids[:, None], now.positions[:, None], reading).logits[:, -1]
        self.table.advance(self.choice(logits.to(now.ids.device, torch.float32), self.table))

    def _run_pooled(self) -> None:
        pool, table = self.pool, self.table
        assert pool is not None
        reading = PooledReading(
            keys=pool.keys,
            values=pool.values,
            runs=self._spans,
            rows=(table.now.slots, table.now.places, table.now.starts, table.now.prefix),
            furthest=self._furthest,
            without_prefix=self._without_prefix,
        )
        room = (self.cache.lines, self.cache.places)
        if self.choice.limited:
            self._step(reading, seen=room)
            return
        self.graphs.run(
            lambda: self._step(reading, seen=room),
            kind=(table.rows, *self._spans.shape, self._furthest, self._without_prefix, self.choice.kind),
            version=(self.cache.version, pool.version, table.version, self._weights),
        )

    def _stop_pooling(self, why: str) -> None:
        self.pooled = False
        self.graphs.refuse(why)
        lines = [row.slot for row in self.rows]
        self.cache.move(lines, range(len(lines)), self.cache.places)
        self.arrange(self.rows, range(len(lines)), [])

    def _rows_reading(self, reach: int) -> RowsReading:
        even = all(row.place == reach - 1 for row in self.rows)
        return RowsReading(
            runs=self._runs,
            positions=self.table.now.positions,
            furthest=max(row.read_tokens + row.place for row in self.rows),
            places=None if even else self.table.now.places,
        )

    def _called(self, model: Any, ids: Any, positions: Any, reading: Reader) -> Any:
        return model(
            ids, position_ids=positions, **cache_argument(self.cache), use_cache=True, reading=reading
        )

    def _runs_of(self, rows: Sequence[Row], tokens: Sequence[int]) -> list[tuple[Prefix | None, int]]:
        runs = groupby(zip(rows, tokens, strict=True), key=lambda pair: pair[0].context)
        return [
            (
                None if context is None else self.contexts.read(self.model, context),
                sum(count for _, count in run),
            )
            for context, run in runs
        ]

    def _span(self, context: Context | None) -> slice:
        assert self.pool is not None
        return slice(0, 0) if context is None else self.pool.span(context)


def _may_pool(model: PreTrainedModel) -> bool:
    """Whether flash attention may read all of this model's rows (a layer may still say no)."""
    one = len({x.device for x in model.parameters()}) == 1
    return one and model.dtype in _HALVES and kernels.has_flash(model.device)


def _bucket(number: int) -> int:
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()
