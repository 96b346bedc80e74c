"""Needles in a haystack: sentences that give a key its value, hidden in a long text (RULER's niah, arXiv 2404.06654)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from lit_cartridges.evals.generators.generator import Asked, Generator, Made
from lit_cartridges.evals.generators.haystack import NOISE, listed, rotated, with_inserted
from lit_cartridges.evals.generators.words import Kind, Words, distinct


class Needles(Generator):
    """Asks for the values of keys, no two of which are equal.

    Args:
        words: of the keys.
        haystack: "noise": the same few sentences; "text": those of ``sentences``, from a drawn one on; "needles": other
            keys with other values.
        keys, values: what they are.
        num_keys: keys hidden; as many as are asked for at least.
        values_per_key: each in a sentence of its own.
        asked_together: keys that one question asks for.
        questions: about one text.

    Deviations from the paper's generator: a needle may stand between any two units of the filler, not at one of forty
    depths, the text does not always begin with its first sentence, and no key is drawn twice.
    """

    max_new_tokens = 128

    def __init__(
        self,
        *,
        words: Words,
        haystack: Literal["noise", "text", "needles"],
        keys: Kind = "words",
        values: Kind = "numbers",
        num_keys: int = 1,
        values_per_key: int = 1,
        asked_together: int = 1,
        questions: int = 1,
        sentences: Sequence[str] = (),
    ) -> None:
        self.words, self.haystack, self.keys, self.values = words, haystack, keys, values
        self.num_keys = max(num_keys, asked_together * questions)
        self.values_per_key, self.asked_together, self.questions = values_per_key, asked_together, questions
        self.sentences = sentences
        self.least = self.num_keys * values_per_key
        self.one = asked_together * values_per_key == 1

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`."""
        taken: set[str] = set()
        keys = distinct(lambda: self.words.drawn(self.keys, rng), self.num_keys, taken)
        numbers = distinct(lambda: self.words.drawn(self.values, rng), self.least, taken)
        known = {
            key: numbers[i * self.values_per_key : (i + 1) * self.values_per_key]
            for i, key in enumerate(keys)
        }
        needles = [self._needle(key, value) for key, own in known.items() for value in own]
        rng.shuffle(needles)
        asked = rng.sample(keys, self.asked_together * self.questions)
        groups = [asked[i : i + self.asked_together] for i in range(0, len(asked), self.asked_together)]
        filler = self._filler(size, taken, rng)
        joint = " " if self.haystack == "text" else "\n"
        alone = self.one and self.questions == 1
        opening = (
            f"A special magic {self.values[:-1]} is" if alone else f"Some special magic {self.values} are"
        )
        return Made(
            text=f"{opening} hidden in the text below. Memorise it all, for you will be asked for what is hidden.\n"
            + joint.join(with_inserted(filler, needles, rng)),
            questions=tuple(self._asked(group, known) for group in groups),
        )

    def _needle(self, key: str, value: str) -> str:
        return f"One of the special magic {self.values} for {key} is: {value}."

    def _filler(self, size: int, taken: set[str], rng: random.Random) -> list[str]:
        if self.haystack == "noise":
            return [NOISE] * size
        if self.haystack == "text":
            return rotated(self.sentences, size, rng)
        keys = distinct(lambda: self.words.drawn(self.keys, rng), size, taken)
        return [self._needle(key, self.words.drawn(self.values, rng)) for key in keys]

    def _asked(self, keys: Sequence[str], known: dict[str, list[str]]) -> Asked:
        what = f"special magic {self.values[:-1] if self.one else self.values} for {listed(keys)} in the text above"
        verb = "is" if self.one else "are"
        return Asked(
            prompt=f"What {verb} {'' if self.one else 'all '}the {what}?",
            lead=f"The {what} {verb}",
            answers=tuple(value for key in keys for value in known[key]),
        )
