"""What a page tells of one run, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.errors import CartridgesError
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.report.corpus_parts import CorpusPart


class ReportError(CartridgesError, ValueError):
    """Nothing to report on; the message names the path and what would work."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: one system's figures.

    Args:
        system: its name, "cartridge" where it is the run's own.
        about: what it was asked about: the corpus, or the task where that has no name.
        num_kv_tokens, kv_bytes: positions in front of the question, and the bytes of their keys and values.
        corpus_tokens: the corpus's length.
        accuracy: share of right replies and its standard error.
        answer_log_likelihood: of the reference answers, in nats per token.
        training_s: seconds of training and of making the conversations; None for what is not trained.
        series: rows of one name are one line against compression; without it, those about one thing are points.
    """

    system: str
    about: str
    num_kv_tokens: int
    accuracy: float
    accuracy_standard_error: float | None = None
    corpus_tokens: int | None = None
    kv_bytes: int | None = None
    num_questions: int | None = None
    answer_log_likelihood: float | None = None
    seconds_per_answer: float | None = None
    training_s: float | None = None
    series: str = ""

    @property
    def compression(self) -> float | None:
        """Corpus tokens per position."""
        return self.corpus_tokens / self.num_kv_tokens if self.corpus_tokens and self.num_kv_tokens else None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure over optimizer steps, with its standard error where one is known."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    errors: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run, one line of a comparison, or one evaluation.

    Args:
        name: on the page.
        headline: label and value of what it was made of, made into, and took.
        rows: its systems' figures.
        losses, accuracies: its training.
        evaluations: with every reply.
        parts: of the corpus, in order.
        conversations: those of its recording that were read.
        settings: all of them, by name.
        left_out: what could not be read, in sentences.
    """

    name: str
    headline: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    losses: Sequence[Curve] = ()
    accuracies: Sequence[Curve] = ()
    evaluations: Sequence[Evaluation] = ()
    parts: Sequence[CorpusPart] = ()
    conversations: Sequence[Conversation] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
