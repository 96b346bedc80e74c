"""Variable tracking: chains of assignments, hidden in a long text (RULER's vt, arXiv 2404.06654)."""

from __future__ import annotations

import random
import string

from lit_cartridges.evals.generators.generator import Asked, Generator, Made
from lit_cartridges.evals.generators.haystack import NOISE, with_inserted
from lit_cartridges.evals.generators.words import distinct

_EXAMPLE_NOISE = 5


class Variables(Generator):
    """Asks for all variables that have a value: the first of a chain is given it, each other one is given the one before.

    A short worked example stands in front. With several questions there is a chain for each, and their lines are mixed, each
    chain's in its order.

    Args:
        hops: assignments from one variable to the next.
        questions: chains, and questions about one text.
    """

    max_new_tokens = 30

    def __init__(self, *, hops: int = 4, questions: int = 1) -> None:
        self.hops, self.chains = hops, questions
        self.least = (hops + 1) * questions

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`."""
        example, (shown, *_) = self._text(max(_EXAMPLE_NOISE, self.hops), rng, chains=1, letters=3)
        text, questions = self._text(size, rng, chains=self.chains, letters=5)
        answered = f"{shown.prompt}\n{shown.lead} {' '.join(shown.answers)}"
        return Made(text=f"{example}\n{answered}\n\n{text}", questions=questions)

    def _text(
        self, size: int, rng: random.Random, *, chains: int, letters: int
    ) -> tuple[str, tuple[Asked, ...]]:
        each = self.hops + 1
        names = distinct(lambda: "".join(rng.choices(string.ascii_uppercase, k=letters)), each * chains)
        values = distinct(lambda: str(rng.randrange(10_000, 100_000)), chains)
        lines = [""] * len(names)
        places = rng.sample(range(len(names)), len(names))
        questions = []
        for i, value in enumerate(values):
            own = names[i * each : (i + 1) * each]
            given = [value, *(f"VAR {name}" for name in own)]
            for place, name, source in zip(
                sorted(places[i * each : (i + 1) * each]), own, given, strict=False
            ):
                lines[place] = f"VAR {name} = {source}"
            questions.append(
                Asked(
                    prompt=f"Question: Which variables have the value {value} in the text above?",
                    lead=f"Answer: By the assignments in the text above, {each} variables have the value {value}, "
                    "they are:",
                    answers=tuple(own),
                )
            )
        opening = "The text below hides assignments of variables. Keep track of them."
        return "\n".join([opening, "", *with_inserted([NOISE] * size, lines, rng)]), tuple(questions)
