"""The own keys and values of rows that enter and leave a batch at any time, each in a line of its own.

Behind prefixes that are kept elsewhere (`rows_reading`, `pooled_reading`), a row's own tokens lie at the places 0, 1, … of
its line:

    layer's keys, values [lines, places, kv_heads, head_dim]

A forward call writes either one token of every row, or the prompts of new rows packed one after the other. It is written in
place: nothing is copied for a token, and for a row that leaves, one line moves, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_MORE_TOKENS = 64  # room that is added at least


@dataclass
class _Writing:
    """Where the tokens of the call to come lie: lines and places [tokens] each; and the lines and places that they see."""

    lines: Tensor
    places: Tensor
    seen: tuple[int, int] | None


@dataclass
class _Room:
    """How many lines of how many places every layer has. Apart from the cache, since layers that knew the cache would keep
    each other's tensors alive until Python next looks for circles."""

    lines: int = 0
    places: int = 0


class RowsCache(Cache):
    """See the module. Before every forward call, `reserve` room and say by `write` where its tokens lie.

    ``version`` counts how often the tensors have been made anew.
    """

    def __init__(self, num_layers: int) -> None:
        self.version, self._room = 0, _Room()
        self._rows_layers = [_RowsLayer(self._room) for _ in range(num_layers)]
        super().__init__(layers=list(self._rows_layers))

    @property
    def lines(self) -> int:
        return self._room.lines

    @property
    def places(self) -> int:
        return self._room.places

    def reserve(self, lines: int, tokens: int, *, most: int) -> None:
        """Make room for so many lines of so many tokens, of which there will never be more than ``most``; what is there
        stays."""
        if lines <= self.lines and tokens <= self.places:
            return
        room, before = self._room, (self.lines, self.places)
        if tokens > room.places:
            # Twice as much as is needed, since growing copies everything.
            room.places = max(tokens, min(most, max(2 * tokens, tokens + _MORE_TOKENS)))
        room.lines = max(lines, room.lines)
        self.version += 1
        try:
            for layer in self._rows_layers:
                layer.grow()
        except BaseException:
            # Memory has run out: what is there is read on, and some layers have room to spare.
            room.lines, room.places = before
            raise

    def write(self, lines: Tensor, places: Tensor, *, seen: tuple[int, int] | None = None) -> None:
        """Where the next call's tokens lie.

        Args:
            lines, places: int64 [tokens].
            seen: one token of every row, which then see the first of so many lines and places; None for packed prompts, which
                see themselves alone.
        """
        writing = _Writing(lines, places, seen)
        for layer in self._rows_layers:
            layer.writing = writing

    def move(self, sources: Sequence[int], targets: Sequence[int], tokens: int) -> None:
        """The first ``tokens`` of the lines ``sources`` become those of the lines ``targets``, all at once."""
        if sources:
            lines = torch.tensor([sources, targets])
            for layer in self._rows_layers:
                layer.move(lines, tokens)


class _RowsLayer(DynamicLayer):
    def __init__(self, room: _Room) -> None:
        super().__init__()
        self.room = room
        self.writing: _Writing | None = None

    def get_seq_length(self) -> int:
        return 0  # every call brings its own positions

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # no call has a mask

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._empty(x, x.shape[1], x.shape[3]) for x in (key_states, value_states))
        self.is_initialized = True

    def _empty(self, like: Tensor, kv_heads: int, width: int) -> Tensor:
        # Zeros, since what a mask hides still weighs 0 times its value.
        return like.new_zeros(self.room.lines, self.room.places, kv_heads, width)

    def grow(self) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old: Any = getattr(self, name)
            new = self._empty(old, *old.shape[2:])
            new[: old.shape[0], : old.shape[1]] = old[: new.shape[0], : new.shape[1]]
            setattr(self, name, new)

    def move(self, lines: Tensor, tokens: int) -> None:
        if self.is_initialized:
            sources, targets = lines.to(self.device)
            for side in (self.keys, self.values):
                assert isinstance(side, Tensor)
                held = side[:, :tokens]
                held[targets] = held[sources]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.writing is not None
        seen, own = self.writing.seen, []
        lines, places = (x.to(key_states.device) for x in (self.writing.lines, self.writing.places))
        for side, new in ((self.keys, key_states), (self.values, value_states)):
            assert isinstance(side, Tensor)
            tokens = new[0].transpose(0, 1) if seen is None else new[:, :, 0]  # [tokens, kv_heads, head_dim]
            side[lines, places] = tokens.to(side.dtype)
            own.append(new if seen is None else side[: seen[0], : seen[1]].transpose(1, 2))
        return own[0], own[1]
