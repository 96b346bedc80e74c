"""A whole chunk goes into a cascade at once: the rule of arXiv 2406.17808, with no loop over tokens.

The rule, token by token: an item that arrives at a sub-cache is accepted or not (`CascadeShape.accepts`). Accepted, it
becomes the newest entry, and a full sub-cache hands its oldest entry on to the next one. Not accepted, it opens an empty
sub-cache, or takes the newest entry's place if its score is at least as high, or is lost.

Scores do not change inside one chunk. So the arrivals at a sub-cache fall into *blocks*: an accepted item opens one, the
others that follow compete in it, and the block's entry is the best of them, the last one among equals (block 0: the entry
that was newest before the chunk). Old entries and blocks in order are the sub-cache's *entries*; the last ``window_tokens``
of them stay, and those before, in order, are the arrivals of the next sub-cache: entry e leaves at the step that opens the
block ``window_tokens`` entries later, and by then it is settled.

Hence counts, blocks and shifts follow from the tokens' indices alone: `plan_insertion` computes them once per forward call
for all heads and all layers of one shape, on the CPU. Only who wins a block depends on scores: `InsertionPlan.columns`.

Legend: R rows, H token sets per row (KV heads, or 1 when they share one), n held columns, q columns of the chunk.
The columns of a row are its sinks, then sub-cache C-1 to 0, each from its oldest to its newest entry: a held
token's column is its position. Rows that hold fewer than n tokens have unused columns at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.cascade.shape import CascadeShape


@dataclass(frozen=True, kw_only=True)
class _Level:
    """One sub-cache: B blocks and T entries at most in a row, of A arrivals.

    Args:
        newest: [R, 1, 1] column of the newest entry before the chunk.
        block: [R, 1, 1 + A] the block of that entry and of each arrival; B + 1 for what does not exist.
        single: [R, 1, B + 1] the candidate that opens each block, which wins it if nobody competes.
        contested: whether anybody does.
        winner: [R, 1, T] which block's winner an entry is.
        old: [R, 1, T] the column of an entry that was there before and did not compete; -1 for the others.
        evicted: entries at the front that go to the next level, at most in a row.
    """

    newest: Tensor
    block: Tensor
    single: Tensor
    contested: bool
    winner: Tensor
    old: Tensor
    evicted: int

    def entries(self, items: Tensor, scores: Tensor) -> Tensor:
        """Columns [R, H, T] of the entries, from the columns ``items`` [R, H, A] of the arrivals."""
        R, H, _ = items.shape
        candidates = torch.cat([self.newest.expand(R, H, 1), items], dim=2)  # (R, H, 1 + A)
        best = self._best(candidates, scores) if self.contested else self.single.expand(R, H, -1)
        winners = candidates.gather(2, best)  # (R, H, B + 1)
        return torch.where(self.old >= 0, self.old, winners.gather(2, self.winner.expand(R, H, -1)))

    def _best(self, candidates: Tensor, scores: Tensor) -> Tensor:
        """Per block the last of the candidates with the highest score: [R, H, B + 1] indices of candidates."""
        R, H, size = candidates.shape
        block = self.block.expand(R, H, size)
        values = scores.gather(2, candidates)
        highest = values.new_full((R, H, self.single.shape[2] + 1), -torch.inf)
        highest = highest.scatter_reduce(2, block, values, "amax")
        order = torch.arange(size, device=block.device).expand(R, H, size)
        order = order.where(values == highest.gather(2, block), -1)
        last = order.new_full(highest.shape, -1).scatter_reduce(2, block, order, "amax")
        return last[:, :, :-1].clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class InsertionPlan:
    """What an insertion does, but for the scores.

    Args:
        seen: [R] tokens seen afterwards, padding not counted; on the CPU.
        counts: [R, C] entries of each sub-cache afterwards; on the CPU.
        sinks: [R, 1, s] columns of the sinks.
        first: [R, 1, A] columns of the arrivals at sub-cache 0.
        kept: [R, 1, n'] which of [sinks | entries of level C-1 | … | entries of level 0] are the columns afterwards.
    """

    seen: Tensor
    counts: Tensor
    sinks: Tensor
    first: Tensor
    levels: tuple[_Level, ...]
    kept: Tensor

    def columns(self, scores: Tensor) -> Tensor:
        """Columns [R, H, n'] of [held | chunk] that are held afterwards, given fp32 ``scores`` [R, H, n + q].

        What stands in a row's unused columns is one of its tokens, and means nothing.
        """
        R, H, _ = scores.shape
        items, parts = self.first.expand(R, H, -1), []
        for level in self.levels:
            entries = level.entries(items, scores)
            parts.append(entries)
            items = entries[:, :, : level.evicted]
        everything = torch.cat([self.sinks.expand(R, H, -1), *reversed(parts)], dim=2)
        return everything.gather(2, self.kept.expand(R, H, -1))


def plan_insertion(
    shape: CascadeShape, seen: Tensor, counts: Tensor, real: Tensor, *, device: torch.device | str = "cpu"
) -> InsertionPlan:
    """Plan the insertion of a chunk.

    Args:
        seen: [R] tokens seen before, padding not counted.
        counts: [R, C] entries of each sub-cache before.
        real: [R, q] bool, False where the chunk is padding: on the left, on the right or anywhere.
        device: where the plan's indices are wanted; ``seen``, ``counts`` and ``real`` are on the CPU.
    """
    S, W = shape.sink_tokens, shape.window_tokens
    old_sinks, new = seen.clamp(max=S), real.sum(1)
    held = int(stored_tokens(shape, seen, counts).max())
    order = _places(real) + held  # (R, real tokens): their columns
    # Sinks first: the old ones, then the row's next tokens until there are S.
    sinks = (seen + new).clamp(max=S)
    index = torch.arange(int(sinks.max()))
    sink_columns = torch.where(index < old_sinks[:, None], index, _pick(order, index - seen[:, None]))
    pieces, valid = [], [index < sinks[:, None]]
    # Then the rest arrives at sub-cache 0.
    skipped = sinks - old_sinks
    arriving = new - skipped  # (R,)
    index = torch.arange(int(arriving.max()))
    first = _pick(order, skipped[:, None] + index)
    steps = (seen + skipped - S)[:, None] + index  # (R, A)
    after = counts.clone()
    for i in range(shape.cascades):
        count = counts[:, i]  # (R,)
        base = old_sinks + counts[:, i + 1 :].sum(1)  # the level's first column
        index = torch.arange(steps.shape[1])
        present = index < arriving[:, None]
        opens = present & (shape.accepts(i, steps) | ((index == 0) & (count == 0)[:, None]))
        block = opens.cumsum(1)
        blocks = opens.sum(1)
        B = int(blocks.max())
        block = torch.cat(
            [torch.where(count > 0, 0, B + 1)[:, None], torch.where(present, block, B + 1)], dim=1
        )
        opening = _places(opens)  # (R, B): the arrival that opens each block
        total = count + blocks
        evicted = (total - W).clamp(min=0)
        entry = torch.arange(int(total.max()))
        old = torch.where(entry < (count - 1)[:, None], base[:, None] + entry, -1)
        pieces.append(
            _Level(
                newest=(base + count - 1).clamp(min=0)[:, None, None],
                block=block[:, None],
                single=torch.nn.functional.pad(opening + 1, (1, 0))[:, None],
                contested=bool((present & ~opens).any()),
                winner=(entry - count[:, None] + 1).clamp(0, B)[:, None],
                old=old[:, None],
                evicted=int(evicted.max()),
            )
        )
        valid.insert(1, (entry >= evicted[:, None]) & (entry < total[:, None]))
        after[:, i] = total - evicted
        # Entry e leaves when block e + W - count opens, counting from 0.
        leaving = torch.arange(int(evicted.max())) + (W - count)[:, None]
        steps, arriving = _pick(_pick(steps, opening), leaving), evicted
    plan = InsertionPlan(
        seen=seen + new,
        counts=after,
        sinks=sink_columns[:, None].to(device),
        first=first[:, None].to(device),
        levels=tuple(_to(level, device) for level in pieces),
        kept=_places(torch.cat(valid, dim=1))[:, None].to(device),
    )
    return plan


def stored_tokens(shape: CascadeShape, seen: Tensor, counts: Tensor) -> Tensor:
    """Tokens held in each row [R], sinks included."""
    return seen.clamp(max=shape.sink_tokens) + counts.sum(1)


def _to(level: _Level, device: torch.device | str) -> _Level:
    moved: dict[str, Any] = {
        name: x.to(device) if isinstance(x, Tensor) else x for name, x in vars(level).items()
    }
    return _Level(**moved)


def _places(mask: Tensor) -> Tensor:
    """Where ``mask`` [R, m] is True, in order, per row: [R, most of a row]; 0 where a row has fewer."""
    rank = mask.cumsum(1) - 1
    most = int(mask.sum(1).max()) if mask.numel() else 0
    places = rank.new_zeros(mask.shape[0], most + 1)
    index = torch.arange(mask.shape[1]).expand_as(rank)
    return places.scatter_(1, torch.where(mask, rank, most), index)[:, :most]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """``values`` [R, m] at ``index`` [R, k], those outside at the nearest end; zeros if there are no values."""
    if values.shape[1] == 0:
        return index.new_zeros(values.shape[0], index.shape[1])
    return values.gather(1, index.clamp(0, values.shape[1] - 1))
