"""Questions about a world's corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.pocket.corpus import WorldCorpus, WorldTokens
from lit_cartridges.pocket.questions import Question
from lit_cartridges.settings import Count, NonNegativeInt, checked


class PocketQuestions(EvalTask):
    """Questions about the facts of a `WorldCorpus`, no fact twice before every fact was asked once.

    A reply is right when its value words are exactly the asked ones, in order.

    Args:
        seed, num_tokens, index, held_out, part: as for `WorldCorpus`; give both the same.
        num_questions: how many; more than the corpus has facts ask for some again, in other words.
        question_seed: decides which facts are asked for, and how.
    """

    corpus_class = WorldCorpus

    @checked
    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        num_tokens: WorldTokens,
        num_questions: Count = 100,
        index: NonNegativeInt = 0,
        held_out: bool = True,
        part: tuple[int, int] = (0, 1),
        question_seed: NonNegativeInt = 0,
    ) -> None:
        self.corpus = self.corpus_class(
            seed=seed, num_tokens=num_tokens, index=index, held_out=held_out, part=part
        )
        self.num_questions, self.question_seed = num_questions, question_seed
        if not self.corpus.pocket_text.facts:
            raise EvalError(f"num_tokens={num_tokens}: so short a corpus states no fact to ask for; try 100")

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        answer = question.answer or ""
        return Question("question", question.prompt, answer, question.values, (), ()).is_right(reply)

    def describe(self) -> str:
        return f"{type(self).__name__} {self.corpus.path.name}"

    @cached_property
    def _questions(self) -> tuple[EvalQuestion, ...]:
        return tuple(EvalQuestion(prompt=q.prompt, answer=q.answer, values=q.values) for q in self._made())

    def _made(self) -> list[Question]:
        text = self.corpus.pocket_text
        made: list[Question] = self.corpus.world.questions(text, self.num_questions, self.question_seed)
        return made
