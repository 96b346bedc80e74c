"""Passkey retrieval (arXiv 2305.16300): a key stated once in filler, at some depth of a text of some length.

The key has several digits (or words), which are graded one by one: with fewer positions than tokens, what is lost is lost in
parts. The filler is generated, so that a text of any length has no two long stretches in common.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion
from lit_cartridges.settings import Range, checked
from lit_cartridges.text import text_ids


@dataclass(frozen=True, kw_only=True)
class PasskeySample:
    """A text, what is asked about it, and the digits of its key in order."""

    text: str
    questions: tuple[EvalQuestion, ...]
    key: tuple[str, ...]


class PasskeyLanguage(ABC):
    """Makes texts with a key. A subclass gives fillers, the key's sentences, and reads digits from replies."""

    @abstractmethod
    def filler(self, rng: random.Random) -> str:
        """One sentence that says nothing about any key."""

    @abstractmethod
    def key(self, rng: random.Random) -> tuple[str, tuple[EvalQuestion, ...], tuple[str, ...]]:
        """The text that states a key, the questions for it, and its digits."""

    @abstractmethod
    def digits(self, replies: Sequence[str]) -> list[str]:
        """What the replies to all questions give as the digits, in order; missing ones may be left out."""

    def sample(self, tokenizer: Any, *, num_tokens: int, depth: float, seed: int) -> PasskeySample:
        """A text of at most ``num_tokens`` with the key behind a share ``depth`` of its filler, 0 to 1.

        Raises:
            EvalError: the key alone is longer.
        """
        rng = random.Random(f"{seed} {num_tokens} {depth}")
        statement, questions, key = self.key(rng)
        room = num_tokens - len(text_ids(tokenizer, statement))
        if room < 0:
            raise EvalError(
                f"lengths={num_tokens}: so many tokens do not hold a key of {num_tokens - room}; give longer ones"
            )
        sentences: list[str] = []
        while True:
            sentence = self.filler(rng)
            room -= len(text_ids(tokenizer, " " + sentence))
            if room < 0:
                break
            sentences.append(sentence)
        sentences.insert(round(depth * len(sentences)), statement)
        return PasskeySample(text=" ".join(sentences), questions=questions, key=key)


class EnglishPasskey(PasskeyLanguage):
    """A number of some digits in generated English sentences, for models that read English.

    Args:
        num_digits: of the number.
    """

    @checked
    def __init__(self, *, num_digits: Annotated[int, Range(least=1, most=1_000)] = 5) -> None:
        self.num_digits = num_digits

    def filler(self, rng: random.Random) -> str:
        """See `PasskeyLanguage.filler`."""
        a, b = rng.sample(_THINGS, 2)
        return rng.choice(_SENTENCES).format(
            a=f"{rng.choice(_KINDS)} {a}",
            b=f"{rng.choice(_KINDS)} {b}",
            verb=rng.choice(_VERBS),
            when=rng.choice(_WHEN),
        )

    def key(self, rng: random.Random) -> tuple[str, tuple[EvalQuestion, ...], tuple[str, ...]]:
        """See `PasskeyLanguage.key`."""
        number = "".join(rng.choice("0123456789") for _ in range(self.num_digits))
        question = EvalQuestion(
            prompt="What is the pass key that the text mentions? Answer with the number only.", answer=number
        )
        return f"Here is something to remember: the pass key is {number}.", (question,), tuple(number)

    def digits(self, replies: Sequence[str]) -> list[str]:
        """The first number in the reply; blanks and commas inside it do not matter."""
        found = re.search(r"\d[\d ,]*", replies[0])
        return re.findall(r"\d", found[0]) if found else []


_KINDS = "old small quiet broad grey early wooden distant patient narrow heavy bright".split()
_THINGS = "ferry orchard lantern kettle sparrow mill ladder harbour meadow clerk violin bridge basket chimney".split()
_VERBS = "waits for|leans against|is older than|stands behind|reminds nobody of|is painted like".split("|")
_WHEN = (
    "in the evening|after the rain|before breakfast|on most days|all through the summer|now and then".split(
        "|"
    )
)
_SENTENCES = (
    "The {a} {verb} the {b} {when}.",
    "A {a} {verb} every {b}, and {when} nobody minds.",
    "It is said that {when} the {a} {verb} the {b}.",
)
