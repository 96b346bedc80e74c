"""What all generated texts have in common: questions, and a filler that makes them as long as they may be."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from lit_cartridges.errors import CartridgesError


class GeneratorError(CartridgesError, ValueError):
    """A text that cannot be made; the message names the setting."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a made text.

    Args:
        prompt: the user's message.
        lead: what the answer is opened with, which the model then goes on with.
        answers: what a right reply states.
    """

    prompt: str
    lead: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A text and the questions about it."""

    text: str
    questions: tuple[Asked, ...]


class Generator(ABC):
    """Makes a text of so many units of filler.

    Attributes:
        max_new_tokens: of a reply.
        every_answer: a reply is scored by the share of the answers that it states; if not, any of them will do.
        least, most: units of filler; None is no bound.
    """

    max_new_tokens: int
    every_answer = True
    least = 1
    most: int | None = None

    @abstractmethod
    def made(self, size: int, rng: random.Random) -> Made:
        """``size`` units of filler around what is asked for; more units never make it shorter."""


def fitted(generator: Generator, count: Callable[[str], int], *, num_tokens: int, seed: str) -> Made:
    """The longest text that, with its longest question and a whole reply, takes at most ``num_tokens``.

    Args:
        count: tokens of a text.
        seed: decides everything that is drawn; it is drawn anew for every length.

    Raises:
        GeneratorError: not even the shortest text fits.
    """

    def made(size: int) -> Made | None:
        one = generator.made(size, random.Random(seed))
        longest = max(count(asked.prompt) + count(asked.lead) for asked in one.questions)
        return one if count(one.text) + longest + generator.max_new_tokens <= num_tokens else None

    best = made(generator.least)
    if best is None:
        raise GeneratorError(
            f"num_tokens={num_tokens} is too short for this text, its question and a reply of up to "
            f"{generator.max_new_tokens} tokens; choose more, or ask fewer questions"
        )
    fits, too_long = generator.least, None if generator.most is None else generator.most + 1
    while too_long is None or too_long - fits > 1:
        size = 2 * fits if too_long is None else (fits + too_long) // 2
        longer = made(size)
        if longer is None:
            too_long = size
        else:
            best, fits = longer, size
    return best
