"""Tasks whose text is made: what their task and their corpus have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.corpora.open_corpus import open_corpus
from lit_cartridges.errors import called
from lit_cartridges.evals.generators.generator import Generator, Made, fitted
from lit_cartridges.evals.generators.haystack import sentences
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.models import load_tokenizer
from lit_cartridges.text import text_ids


class GeneratedTask(EvalTask):
    """Questions about a made text; a subclass makes it in its constructor."""

    made: Made
    generator: Generator
    title: str

    def questions(self) -> Sequence[EvalQuestion]:
        return [
            EvalQuestion(
                prompt=one.prompt, lead=one.lead, answer=self.reference(one.answers), values=one.answers
            )
            for one in self.made.questions
        ]

    def reference(self, answers: Sequence[str]) -> str:
        """The answer whose log-likelihood is measured."""
        return ", ".join(answers) if self.generator.every_answer else answers[0]

    @abstractmethod
    def score(self, question: EvalQuestion, reply: str) -> float:
        """0 to 1."""

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """Whether the score is 1."""
        return self.score(question, reply) == 1

    def figures(
        self, questions: Sequence[EvalQuestion], replies: Sequence[str]
    ) -> Mapping[str, tuple[float, float | None]]:
        """The score, where a reply may be right in part."""
        scores = [self.score(question, reply) for question, reply in zip(questions, replies, strict=True)]
        error = stdev(scores) / sqrt(len(scores)) if len(scores) > 1 else None
        return {"score": (fmean(scores), error)}

    @property
    def max_new_tokens(self) -> int:
        """Of a reply, as the benchmark has it."""
        return self.generator.max_new_tokens

    def describe(self) -> str:
        return f"{type(self).__name__} {self.title}"


class GeneratedCorpus(Corpus):
    """The text that the task of the same settings asks about."""

    @abstractmethod
    def __init__(self, task: GeneratedTask) -> None:
        # The base looks for a file, and a made text has none; the path only names the corpus in messages.
        self.path = Path(task.title)
        self.made = task.made

    def documents(self) -> Iterator[Document]:
        yield Document(self.path.name, self.made.text)


def made(generator: Generator, model: str, *, num_tokens: int, seed: str) -> Made:
    """See `fitted`; the tokens are those of the model's tokenizer, chat template not included."""
    tokenizer: Any = _tokenizer(model)
    return fitted(generator, lambda text: len(text_ids(tokenizer, text)), num_tokens=num_tokens, seed=seed)


@lru_cache(maxsize=2)
def _tokenizer(model: str) -> Any:
    return load_tokenizer(model)


@lru_cache(maxsize=4)
def haystack_sentences(path: str) -> tuple[str, ...]:
    """The sentences of a text file, or of a folder of them.

    Raises:
        CorpusError: there is no text.
        EvalError: there are no two sentences in it.
    """
    with called("haystack", path):
        text = open_corpus(path).text
    found = tuple(sentences(text))
    if len(found) < 2:
        raise EvalError(f"haystack={path!r} holds no two sentences; give a text of the length that is wanted")
    return found
