"""Questions about any text in the pocket language."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.pocket.pocket_text import PocketText, read_corpus
from lit_cartridges.pocket.questions import Question, ask_fact
from lit_cartridges.pocket.tokenizer import unknown_words
from lit_cartridges.settings import Count, NonNegativeInt, ReadFileName, checked


class TextQuestions(EvalTask):
    """Questions about the facts that a text file states, graded as `PocketQuestions` are.

    Args:
        path: the text.
        num_questions: how many; more than there are facts ask for some again, in other words.
        seed: decides which facts are asked for, and how.

    Raises:
        EvalError: no such file, a word that the language does not have, or no statement of it.
    """

    @checked
    def __init__(self, *, path: ReadFileName, num_questions: Count = 100, seed: NonNegativeInt = 0) -> None:
        self.path, self.num_questions, self.seed = Path(path), num_questions, seed
        self.corpus = pocket_text(self.path)

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        answer = question.answer or ""
        return Question("question", question.prompt, answer, question.values, (), ()).is_right(reply)

    @cached_property
    def _questions(self) -> tuple[EvalQuestion, ...]:
        rng = random.Random(f"{self.seed} {self.path.name}")
        facts = self.corpus.facts
        rounds = -(-self.num_questions // len(facts))
        asked = [fact for _ in range(rounds) for fact in rng.sample(facts, len(facts))][: self.num_questions]
        made = [ask_fact(fact, self.corpus, rng) for fact in asked]
        return tuple(EvalQuestion(prompt=q.prompt, answer=q.answer, values=q.values) for q in made)


def pocket_text(path: Path) -> PocketText:
    """The file as a corpus of the pocket language.

    Raises:
        EvalError: it cannot be read, holds a word that the language does not have, or states nothing.
    """
    try:
        text = " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(
            f"corpus {str(path)!r} cannot be read ({error}); give a text file in UTF-8"
        ) from error
    if unknown := unknown_words(text):
        shown = ", ".join(repr(word) for word in unknown[:5])
        raise EvalError(
            f"corpus {str(path)!r} has {len(unknown)} words that the pocket language does not know: {shown}; write it "
            "with the words of lit_cartridges/pocket/vocabulary.py, or use a real model (README, «Your own text»)"
        )
    corpus = read_corpus(text)
    if not corpus.facts:
        raise EvalError(
            f"corpus {str(path)!r} states no fact; a statement reads «the city of Mira is Odrin .» (templates in "
            "lit_cartridges/pocket/language.py)"
        )
    return corpus
