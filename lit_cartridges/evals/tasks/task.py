"""What a system is asked: a task is questions with reference answers, and the way to grade a reply."""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.errors import CartridgesError
from lit_cartridges.evals.tasks.choices import chosen_letter


class EvalError(CartridgesError, ValueError):
    """An evaluation that cannot work; the message names the setting, its value and what would work."""


@dataclass(frozen=True, kw_only=True)
class EvalQuestion:
    """One question.

    Args:
        prompt: the user's whole message, options included.
        answer: the reference answer, whose log-likelihood is measured; with choices, the right option's letter. None where the
            task grades by other means and has no such answer.
        choices: the options' texts, A first; empty unless the question is a multiple choice.
        values: what a right reply states, where the task grades by that.
        lead: what the reply is opened with: it is not generated, and the answer stands behind it.
        group: what it is about, where questions about one thing are alike: a patient, an article.
        recorded: the answer as a teacher wrote it, with token ids and log-probabilities: what is scored is then this, and
            how far a system is from that teacher. All questions of a task have one, or none has.
    """

    prompt: str
    answer: str | None
    choices: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    lead: str = ""
    group: str = ""
    recorded: Message | None = None


class EvalTask(ABC):
    """Questions about a corpus. A subclass writes `questions`, and `is_right` where the usual grading will not do.

    Constructors take keywords only, so that recipes and the command line can choose a task by ``class_path``.
    """

    @abstractmethod
    def questions(self) -> Sequence[EvalQuestion]:
        """The questions, the same ones in the same order at every call."""

    def require_tokenizer(self, tokenizer: Any, *, vocab_size: int | None = None) -> None:
        """Refuse a model's tokenizer, before the model is loaded, where recorded answers are another one's.

        Raises:
            ValueError: they are; the message names the file.
        """
        del tokenizer, vocab_size  # questions in words suit any

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """Whether the reply chooses the right option; without options, whether it is or contains the answer.

        Case, white space and punctuation do not matter; an answer counts as contained where it stands as whole words.
        """
        if question.choices:
            return chosen_letter(reply, question.choices) == question.answer
        answer = question.answer or ""
        wanted = normalised(answer)
        if not wanted:
            return reply.strip() == answer.strip()
        return f" {wanted} " in f" {normalised(reply)} "

    def figures(
        self, questions: Sequence[EvalQuestion], replies: Sequence[str]
    ) -> Mapping[str, tuple[float, float | None]]:
        """What the task measures beside the share of right replies: means and standard errors, by titles for a table.

        Args:
            questions, replies: one reply a question.
        """
        del questions, replies
        return {}

    def pick(self, num_questions: int | None = None) -> list[EvalQuestion]:
        """All questions, or ``num_questions`` of them at even distances.

        Raises:
            EvalError: there are none.
        """
        questions = list(self.questions())
        if not questions:
            raise EvalError(f"task={self.describe()} gives no questions; give a task with at least one")
        if num_questions is None or num_questions >= len(questions):
            return questions
        if num_questions < 1:
            raise EvalError(
                f"num_questions={num_questions} must be at least 1, or null for all {len(questions)}"
            )
        return [questions[i * len(questions) // num_questions] for i in range(num_questions)]

    def describe(self) -> str:
        """The name under which reports remember the task."""
        return type(self).__name__


def normalised(text: str) -> str:
    """Lower case, words and numbers only, one blank between them."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
