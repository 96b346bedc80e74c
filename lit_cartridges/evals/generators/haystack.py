"""What needles are hidden in: the sentences of a text, or the same few sentences again and again."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NOISE = "The lawn is green. The lake is blue. The lamp is yellow. Off we go. Down the road and home."
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


def sentences(text: str) -> list[str]:
    """The text's sentences, as far as full stops and the like tell them apart; line breaks are blanks."""
    return [one for one in _END.split(" ".join(text.split())) if one]


def rotated(known: Sequence[str], size: int, rng: random.Random) -> list[str]:
    """``size`` sentences in a row from a drawn one on; behind the last comes the first."""
    start = rng.randrange(len(known))
    return [known[(start + i) % len(known)] for i in range(size)]


def with_inserted(filler: Sequence[str], needles: Sequence[str], rng: random.Random) -> list[str]:
    """The needles in their order, each in a gap of its own between (or around) the filler's units."""
    gaps = sorted(rng.sample(range(len(filler) + 1), len(needles)))
    whole: list[str] = []
    start = 0
    for gap, needle in zip(gaps, needles, strict=True):
        whole += [*filler[start:gap], needle]
        start = gap
    return [*whole, *filler[start:]]


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b, and c``."""
    if len(names) < 3:
        return " and ".join(names)
    return f"{', '.join(names[:-1])}, and {names[-1]}"
