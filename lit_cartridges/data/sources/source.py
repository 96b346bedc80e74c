"""A source of training examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lit_cartridges.conversations.material import Conversations, Material
from lit_cartridges.conversations.student import Student
from lit_cartridges.data.sources.example_source import ExampleSource
from lit_cartridges.runs.run_settings import constructed


class Source(ABC):
    """Where examples come from.

    Attributes:
        conversations: a way to ask for a few conversations, once connected; None where there are none.
        top_k: the teacher's log-probabilities per answer token that examples bring.
        threaded: whether examples are made elsewhere, while the student trains.
        keeps_back: whether another seed gives examples that are not trained on.
    """

    conversations: Conversations | None = None
    top_k: int = 0
    threaded: bool = False
    keeps_back: bool = True
    _told: bool = False

    def connect(self, student: Student, material: Material) -> None:
        """Take the student and the corpus, and check the settings against them, before a model is loaded.

        Raises:
            ValueError: a setting cannot work; the message names it.
        """
        self.student, self.material = student, material
        objective = student.objective
        if objective.needs_top_logprobs and self.top_k < 1:
            setting = f"source.top_k={self.top_k}" if self.conversations else f"source={type(self).__name__}"
            raise ValueError(
                f"objective {type(objective).__name__} needs the teacher's log-probabilities, which {setting} does "
                "not give; choose the NextToken objective, or conversations with top_k of 20"
            )
        if not self._told:
            self._told = True
            self.tell_proportions(len(material.corpus_ids))

    def tell_proportions(self, corpus_tokens: int) -> None:  # noqa: B027 - most settings suit any length
        """Warn, once, of settings that a corpus of this length makes pointless."""

    @abstractmethod
    def examples(self, *, seed: int, root: Path | None = None) -> ExampleSource:
        """The examples that ``seed`` and a group's index decide.

        Args:
            root: the run's folder, where what is made is kept; None to keep nothing.
        """

    def check_strategy(self, strategy: Any) -> None:  # noqa: B027 - most suit any
        """Check the settings against what trains.

        Raises:
            ValueError: a setting cannot work with it; the message names it.
        """

    def beside(self) -> AbstractContextManager[None]:
        """What a thread is in that makes examples while the student trains."""
        return nullcontext()

    def bind_teacher(self, model: PreTrainedModel | None) -> None:  # noqa: B027 - few have a teacher
        """Take the frozen model that asks and answers; None for a teacher that brings its own."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back connections and memory."""

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`. An attribute of another name than the argument's is told here."""
        return constructed(self, "data.source")
