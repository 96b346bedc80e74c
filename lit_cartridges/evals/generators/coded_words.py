"""Frequent coded words: the three most frequent of words that mean nothing (RULER's fwe, arXiv 2404.06654)."""

from __future__ import annotations

import math
import random
import string

from lit_cartridges.evals.generators.generator import Asked, Generator, Made
from lit_cartridges.evals.generators.words import distinct

_ZETA = math.pi**2 / 6  # of 2: how often words are used falls with the square of their rank
_LETTERS = 6
_DOTS = "..."


class CodedWords(Generator):
    """Words of six letters whose frequencies follow a zeta law of exponent 2; dots take the place of the first.

    Args:
        vocabulary: words, dots included; RULER's are one for 50 tokens of the text.
    """

    max_new_tokens = 50
    least = 73  # from which on the fourth word is always there more often than the fifth
    asked = 3

    def __init__(self, *, vocabulary: int) -> None:
        self.vocabulary = max(vocabulary, self.asked + 2)

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`; ``size`` words, as far as whole counts come to it."""
        letters = string.ascii_lowercase
        words = distinct(lambda: "".join(rng.choices(letters, k=_LETTERS)), self.vocabulary - 1)
        counts = [int(size * rank**-2 / _ZETA) for rank in range(1, self.vocabulary + 1)]
        every = [word for word, count in zip([_DOTS, *words], counts, strict=True) for _ in range(count)]
        rng.shuffle(every)
        asked = Asked(
            prompt=f"Question: Which three coded words does the text above use most often? Ignore the dots '{_DOTS}', and "
            "give no explanation.",
            lead="Answer: The three coded words that the text above uses most often are:",
            answers=tuple(words[: self.asked]),
        )
        opening = "Read the coded text below, count how often it uses each word, and find the three most frequent ones."
        return Made(text=f"{opening} {' '.join(every)}", questions=(asked,))
