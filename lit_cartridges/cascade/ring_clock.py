"""What a token does to a full cascade, from token counts that stay on the device.

Sub-caches are circular buffers: nothing moves but the tokens that a sub-cache hands on. A token that comes in at step n takes
the place of the oldest entry of every sub-cache that accepts at n, whose old entry goes to the next one; the first sub-cache that
does not accept compares what it is handed with its newest entry. So at most one slot per sub-cache changes.

Legend: R rows, C sub-caches of W slots, S sinks, P the position of a new token, which is the capacity. Slots: the sinks, the
*door*, where the new token waits, then sub-cache C-1 to 0. A sub-cache's oldest entry is at its *head*; the others follow in
order, round the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_cartridges.cascade.rotation import Turn
from lit_cartridges.cascade.shape import CascadeShape

if TYPE_CHECKING:
    from lit_cartridges.cascade.cascade_layer import CascadeLayer


@dataclass(frozen=True, kw_only=True)
class RingStep:
    """What one token does in all layers of a clock; sub-caches from C-1 to 0.

    Args:
        tokens: [R, 1] index of the token.
        heads: [R, C] where the sub-caches' oldest entries are.
        offsets: [R, C] the slot of each sub-cache that may change, counted from its first.
        due: [R, C] whether it does, and `contested` whether the scores decide.
        real: [R, 1, 1] False for a row whose token is padding; None where none is.
    """

    shape: CascadeShape
    tokens: Tensor
    heads: Tensor
    offsets: Tensor
    due: Tensor
    contested: Tensor
    real: Tensor | None
    _rows: dict[int, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = field(default_factory=dict)

    @cached_property
    def _firsts(self) -> Tensor:
        """[C] the first position of each sub-cache."""
        shape = self.shape
        ends = torch.arange(shape.cascades, device=self.heads.device) * shape.window_tokens
        return ends + shape.sink_tokens

    @cached_property
    def slots(self) -> Tensor:
        """[R, C + 1] of the offsets; what each is handed stands at the next one's, the new token at the door."""
        return torch.nn.functional.pad(
            self.offsets + (self._firsts + 1), (0, 1), value=self.shape.sink_tokens
        )

    @cached_property
    def before_the_end(self) -> Tensor:
        """[R, C, W] whether an entry stands behind its head in memory too, and has not gone round the end."""
        own = torch.arange(self.shape.window_tokens, device=self.heads.device)
        return own >= self.heads[..., None]

    @cached_property
    def places(self) -> Tensor:
        """[R, S + 1 + C·W] the positions of the slots."""
        W, (R, C) = self.shape.window_tokens, self.heads.shape
        own = torch.arange(W, device=self.heads.device)
        ranks = (own - self.heads[..., None]) % W
        front = torch.arange(self.shape.sink_tokens + 1, device=own.device)
        front[-1] = self.shape.capacity_tokens
        return torch.cat([front.expand(R, -1), (ranks + self._firsts[:, None]).view(R, C * W)], dim=1)

    def rows(self, turn: Turn) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Of ``turn``'s tables: at the queries' positions [R, 1 + 2 C], and at the offsets [R, C].

        A key of a sub-cache is rotated by its slot's number. Its distance to the query is P less its position, so it asks for
        a query at P - first + head, or W less once it has gone round the end.
        """
        if id(turn) not in self._rows:
            P, W = self.shape.capacity_tokens, self.shape.window_tokens
            first = self.heads + (P - self._firsts)
            own = first.new_full((len(first), 1), P)
            self._rows[id(turn)] = turn.at(torch.cat([own, first, first - W], 1)), turn.at(self.offsets)
        return self._rows[id(turn)]


class RingClock:
    """Counts the tokens of rows whose cascades are full, for all layers of one shape that began together.

    Args:
        seen: [R] tokens seen before.
        device: where the counts are kept.
    """

    def __init__(self, shape: CascadeShape, seen: Tensor, device: torch.device) -> None:
        self.shape = shape
        self.layers: list[CascadeLayer] = []
        with torch.inference_mode(False):
            self.seen = seen.clone().to(device)
            self.heads = torch.zeros(len(seen), shape.cascades, dtype=torch.long, device=device)
            self.levels = torch.arange(shape.cascades - 1, -1, -1, device=device)
        self.steps = 0  # made by this process; a graph that is replayed counts on the device alone

    def step(self, real: Tensor | None) -> RingStep:
        """The next token's, ``real`` [R, 1] or None where no row's is padding; counts it."""
        shape, W = self.shape, self.shape.window_tokens
        due = shape.accepts(self.levels, self.seen[:, None] - shape.sink_tokens)
        # What accepts at n are sub-caches 0 to some k, so that k + 1 alone compares.
        contested = ~due & torch.nn.functional.pad(due[:, 1:], (0, 1), value=True)
        if real is not None:
            due, contested = due & real, contested & real
        step = RingStep(
            shape=shape,
            tokens=self.seen[:, None].clone(),
            heads=self.heads.clone(),
            offsets=(self.heads - 1 + due) % W,
            due=due,
            contested=contested,
            real=None if real is None else real[:, :, None],
        )
        self.heads.add_(due).remainder_(W)
        self.seen.add_(1 if real is None else real[:, 0])
        self.steps += 1
        return step
