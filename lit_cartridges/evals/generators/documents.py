"""Questions about some of many documents (RULER's qa, arXiv 2404.06654)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lit_cartridges.evals.generators.generator import Asked, Generator, Made

_HOW = "Answer the question from the documents. Give the answer alone, in no other words."


@dataclass(frozen=True)
class DocumentQuestion:
    """A question, its answers, the numbers of the documents that it needs, and of those that come next: of its article."""

    question: str
    answers: tuple[str, ...]
    needs: tuple[int, ...]
    near: tuple[int, ...] = ()


class Documents(Generator):
    """A question's own documents, then those near them, then others, in drawn order; more questions are about the same.

    Args:
        documents: their texts.
        known: questions about them.
        questions: about one text; fewer where its documents have no more.
    """

    max_new_tokens = 32
    every_answer = False

    def __init__(
        self, *, documents: Sequence[str], known: Sequence[DocumentQuestion], questions: int = 1
    ) -> None:
        self.documents, self.known, self.questions = documents, known, questions
        self.most = len(documents)
        self.least = min(max(len(one.needs) for one in known), self.most)

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`; ``size`` documents."""
        first = self.known[rng.randrange(len(self.known))]
        near = rng.sample(first.near, len(first.near))
        drawn = rng.sample(range(len(self.documents)), len(self.documents))
        chosen = list(dict.fromkeys([*first.needs, *near, *drawn]))[:size]
        rng.shuffle(chosen)
        there = set(chosen)
        others = [one for one in self.known if one is not first and there.issuperset(one.needs)]
        asked = [first, *rng.sample(others, min(self.questions - 1, len(others)))]
        told = (f"Document {i}:\n{self.documents[n]}" for i, n in enumerate(chosen, start=1))
        return Made(
            text="\n\n".join([f"{_HOW}\n\nThese are the documents.", *told]),
            questions=tuple(
                Asked(prompt=f"{_HOW}\n\nQuestion: {one.question}", lead="Answer:", answers=one.answers)
                for one in asked
            ),
        )
