"""Chunks of a corpus, cut between tokens (section 4.1 of arXiv 2506.06266: 512 to 4096 tokens)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.errors import CartridgesError
from lit_cartridges.settings import PositiveInt, checked


class ChunkerError(CartridgesError, ValueError):
    """Chunk bounds that cannot work."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """A contiguous span: its first position in the corpus, and int32 [tokens]."""

    start_token: int
    token_ids: NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        """Length of the span."""
        return len(self.token_ids)


class TokenChunker:
    """Chunks of random length at random places, such that every token is covered about equally often.

    A start drawn over the inner positions alone would show the corpus's first and last tokens to the teacher far
    too seldom. So a window may hang over either end and is cut there. Windows of which less than `min_tokens` would
    be left become the end chunk of `min_tokens` half of the time, and are not drawn otherwise: so the tokens near
    the ends are covered as often, on average, as the others, and none is off by more than min_tokens / (2 · mean
    length), an eighth for the default bounds.
    """

    @checked
    def __init__(self, *, min_tokens: PositiveInt = 512, max_tokens: PositiveInt = 4096) -> None:
        """
        Args:
            min_tokens: shortest chunk; a corpus no longer than this is always taken whole.
            max_tokens: longest chunk.

        Raises:
            SettingError, ChunkerError: bounds that are not 1 <= min_tokens <= max_tokens.
        """
        if min_tokens > max_tokens:
            raise ChunkerError(
                f"min_tokens={min_tokens}, max_tokens={max_tokens}: the shortest chunk is longer than the longest (the "
                "paper: 512, 4096)"
            )
        self.min_tokens, self.max_tokens = min_tokens, max_tokens

    def chunk(self, corpus_ids: NDArray[Any], rng: np.random.Generator) -> Chunk:
        """Draws one chunk; the generator's state alone decides it.

        Raises:
            ChunkerError: the corpus has no tokens.
        """
        corpus_tokens = len(corpus_ids)
        if not corpus_tokens:
            raise ChunkerError("corpus_ids is empty: there is nothing to chunk; give a corpus with some text")
        shortest = self.min_tokens
        length = int(rng.integers(shortest, self.max_tokens, endpoint=True))
        place = rng.random()
        if corpus_tokens <= shortest or length >= corpus_tokens:
            return Chunk(0, np.asarray(corpus_ids, dtype=np.int32))
        # One draw over: both end chunks, each standing for half of the windows with too little left, and all windows.
        end_share = (shortest - 1) / 2
        first, last = shortest - length, corpus_tokens - shortest
        draw = place * (last - first + 1 + 2 * end_share)
        if draw < end_share:
            start, stop = 0, shortest
        elif draw < 2 * end_share:
            start, stop = corpus_tokens - shortest, corpus_tokens
        else:
            window = min(first + int(draw - 2 * end_share), last)
            start, stop = max(window, 0), min(window + length, corpus_tokens)
        return Chunk(start, np.asarray(corpus_ids[start:stop], dtype=np.int32))

    def validate(self, max_positions: int, reserved_tokens: int, *, corpus_tokens: int | None = None) -> None:
        """Checks that the longest chunk and a conversation fit the model together.

        Args:
            max_positions: positions of the model's context.
            reserved_tokens: positions that the template and the conversation take (`Synthesizer.reserved_tokens`).
            corpus_tokens: length of the corpus where it is known; no chunk is longer.

        Raises:
            ChunkerError: naming the setting, its value and the largest that works.
        """
        longest = self.max_tokens if corpus_tokens is None else min(self.max_tokens, corpus_tokens)
        if longest + reserved_tokens <= max_positions:
            return
        room = max_positions - reserved_tokens
        mend = f"chunks may have at most {room}" if room >= 1 else "shorten the conversation first"
        raise ChunkerError(
            f"max_tokens={self.max_tokens}: a chunk of {longest} tokens and {reserved_tokens} tokens of "
            f"conversation do not fit the model's {max_positions} positions; {mend}"
        )
