"""The own keys and values of rows that enter and leave a batch at any time, each at a place of its own.

Behind prefixes that are kept elsewhere (`rows_reading`), a row's own tokens lie at the places 0, 1, … of its line:

    layer's keys, values [rows, kv_heads, places, head_dim]

A forward call writes either one token of every row, or the prompts of new rows packed one after the other. It is written in
place: nothing is copied for a token, and for a row that leaves, one row moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_MORE_TOKENS = 64  # room that is added at once


@dataclass
class _Writing:
    """Where the tokens of the call to come lie: rows and places [tokens] each; and how far the rows then reach."""

    rows: Tensor
    places: Tensor
    reach: int | None


class RowsCache(Cache):
    """See the module. Before every forward call, `reserve` room and say by `write` where its tokens lie."""

    def __init__(self, num_layers: int) -> None:
        self._room = [0, 0]
        self._rows_layers = [_RowsLayer(self._room) for _ in range(num_layers)]
        super().__init__(layers=list(self._rows_layers))

    def reserve(self, rows: int, tokens: int, *, most: int) -> None:
        """Make room for so many rows of so many tokens, of which there will never be more than ``most``; what is there stays."""
        if rows <= self._room[0] and tokens <= self._room[1]:
            return
        if tokens > self._room[1]:
            # By more than is needed, since growing copies everything.
            self._room[1] = max(tokens, min(most, max(tokens + tokens // 4, tokens + _MORE_TOKENS)))
        self._room[0] = max(rows, self._room[0])
        for layer in self._rows_layers:
            layer.grow()

    def write(self, rows: Tensor, places: Tensor, *, reach: int | None = None) -> None:
        """Where the next call's tokens lie.

        Args:
            rows, places: int64 [tokens].
            reach: one token of each of the first rows, which then see the places below this; None for packed prompts, which
                see themselves alone.
        """
        writing = _Writing(rows, places, reach)
        for layer in self._rows_layers:
            layer.writing = writing

    def move(self, sources: Sequence[int], targets: Sequence[int], tokens: int) -> None:
        """The first ``tokens`` of the rows ``sources`` become those of the rows ``targets``, all at once."""
        if sources:
            for layer in self._rows_layers:
                layer.move(list(sources), list(targets), tokens)


class _RowsLayer(DynamicLayer):
    def __init__(self, room: list[int]) -> None:
        super().__init__()
        self.room = room
        self.writing: _Writing | None = None

    def get_seq_length(self) -> int:
        return 0  # every call brings its own positions

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # no call has a mask

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._empty(x) for x in (key_states, value_states))
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros, since what is hidden still weighs 0 times its value.
        return like.new_zeros(self.room[0], like.shape[1], self.room[1], like.shape[3])

    def grow(self) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old: Any = getattr(self, name)
            new = self._empty(old)
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def move(self, sources: list[int], targets: list[int], tokens: int) -> None:
        if self.is_initialized:
            for side in (self.keys, self.values):
                assert isinstance(side, Tensor)
                held = side[:, :, :tokens]
                held[targets] = held[sources]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.writing is not None
        reach, own = self.writing.reach, []
        rows, places = (x.to(key_states.device) for x in (self.writing.rows, self.writing.places))
        for side, new in ((self.keys, key_states), (self.values, value_states)):
            assert isinstance(side, Tensor)
            tokens = new[0].transpose(0, 1) if reach is None else new[:, :, 0]  # [tokens, kv_heads, head_dim]
            side[rows, :, places] = tokens.to(side.dtype)
            own.append(new if reach is None else side[: len(new), :, :reach])
        return own[0], own[1]
