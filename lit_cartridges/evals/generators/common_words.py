"""Common words: the ten that a numbered list repeats most (RULER's cwe, arXiv 2404.06654)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lit_cartridges.evals.generators.generator import Asked, Generator, Made

_COMMON = 10
_PROMPT = "Question: Which 10 words are the most common in the list above?"
_LEAD = "Answer: The 10 words that the list above repeats most are:"


class CommonWords(Generator):
    """Ten words stand in a list more often than all others; the filler is further words. One worked example in front.

    Args:
        words: to choose from; so many different ones are the most that a list has.
        short: as for texts below 4,096 tokens: 6 times against once, where longer ones have 30 times against 3.
    """

    max_new_tokens = 120
    least = _COMMON + 1

    def __init__(self, *, words: Sequence[str], short: bool) -> None:
        self.words, self.short = words, short
        self.most = len(words)

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`; ``size`` is the number of different words."""
        example, shown = self._list(20 if self.short else 40, *((3, 1) if self.short else (10, 3)), rng)
        text, answers = self._list(size, *((6, 1) if self.short else (30, 3)), rng)
        return Made(
            text=f"{example}\n{_PROMPT}\n{_LEAD} {_numbered(shown)}\n\n{text}",
            questions=(Asked(prompt=_PROMPT, lead=_LEAD, answers=tuple(answers)),),
        )

    def _list(self, size: int, common: int, other: int, rng: random.Random) -> tuple[str, list[str]]:
        chosen = rng.sample(self.words, min(size, len(self.words)))
        every = chosen[:_COMMON] * common + chosen[_COMMON:] * other
        rng.shuffle(every)
        opening = "Below is a numbered list of words. Some of them stand in it more often than others: memorise those."
        return f"{opening}\n{_numbered(every)}", chosen[:_COMMON]


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
