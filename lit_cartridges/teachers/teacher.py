"""A teacher: the frozen model that asks about a chunk and answers with the chunk in its context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig

from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.errors import DetailedError
from lit_cartridges.settings import PositiveInt, Temperature, check_fields

if TYPE_CHECKING:
    from lit_cartridges.strategies.frozen_models import FrozenModel

__all__ = ["Completion", "Request", "Sampling", "Talk", "Teacher", "TeacherError", "TopLogprobs"]

T = TypeVar("T")


class TeacherError(DetailedError, RuntimeError):
    """A teacher cannot do what it was asked, or returns nothing of use."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one role (question or answer) is decoded.

    Attributes:
        temperature: 0 is greedy. The log-probabilities that a teacher reports are those at temperature 1 in any case.
        max_new_tokens: the longest reply, its stop token included.
    """

    temperature: Temperature = 0.0
    max_new_tokens: PositiveInt = 1024

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One reply.

    Attributes:
        token_ids: int32 [tokens], the stop token included when `finished`.
        top_logprobs: shape (tokens, k), one row per entry of `token_ids`; None when top_k was 0.
        finished: False when the reply was cut at max_new_tokens.
    """

    token_ids: NDArray[np.int32]
    top_logprobs: TopLogprobs | None
    finished: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", np.asarray(self.token_ids, dtype=np.int32))
        if self.top_logprobs is not None and self.top_logprobs.shape[0] != len(self.token_ids):
            raise ValueError(
                f"a completion of {len(self.token_ids)} tokens came with {self.top_logprobs.shape[0]} rows "
                "of top_logprobs"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The arguments of one `Teacher.complete`."""

    context_ids: Sequence[int]
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seeds: Sequence[int]
    top_k: int = 0
    min_mass: float = 0.99


Talk = Generator[Request, list[Completion], T]
"""What asks one request after the other, gets the completions of each, and ends with a result."""


class Teacher(ABC):
    """Completes prompts that share one context. A subclass writes `complete`, and `converse` where it gains by it.

    Attributes:
        stop_token_ids: ids that end a reply; whoever knows the tokenizer (the Synthesizer) sets them where they are
            still empty.
        runs_model: whether the frozen model that `bind` hands over does the work; it is loaded for this teacher then, and
            asked in the thread that trains it.
        reads_any_length: whether chunks beyond the model's context are no obstacle.
    """

    stop_token_ids: tuple[int, ...] = ()
    runs_model: bool = False
    reads_any_length: bool = False

    @abstractmethod
    def complete(
        self,
        *,
        context_ids: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        top_k: int = 0,
        min_mass: float = 0.99,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts, each decided by its own seed alone.

        Args:
            context_ids: tokens in front of every prompt, prefilled once where that is possible; may be empty.
            prompts: for each row the tokens that follow the context.
            sampling: temperature and length.
            seeds: one per prompt, 0 <= seed < 2**31.
            top_k: log-probabilities to return per token; 0 for none.
            min_mass: rows of log-probabilities are cut where they reach this mass (`TopLogprobs.from_dense`).

        Raises:
            TeacherError: a reply could not be had.
        """

    def converse(self, talks: Iterable[Talk[T]]) -> Iterator[T]:
        """The results of talks, in their order, each as soon as it and those before it are there.

        Here one talk is held after the other. A teacher that answers several contexts at once begins further talks while it
        is at it, and completes the same prompts in the same way. A `TeacherError` is thrown into the talk that asked; what a
        talk raises is raised in the place of its result, so that nothing before it is lost.
        """
        for talk in talks:
            yield _held(talk, self._complete)

    def _complete(self, request: Request) -> list[Completion]:
        return self.complete(
            context_ids=request.context_ids,
            prompts=request.prompts,
            sampling=request.sampling,
            seeds=request.seeds,
            top_k=request.top_k,
            min_mass=request.min_mass,
        )

    def validate(self, vocab_size: int, top_k: int) -> None:
        """Checks settings before anything is generated.

        Raises:
            TeacherError: top_k is negative, or larger than the vocabulary.
        """
        if not 0 <= top_k <= vocab_size:
            raise TeacherError(
                f"top_k={top_k} must lie in 0..{vocab_size}, the size of the vocabulary; the paper's value "
                f"is 20, set top_k to {min(20, vocab_size)}"
            )

    def expect_prefix(self, ids: Sequence[int], *, opening_tokens: int) -> None:  # noqa: B027 - a hint
        """Contexts to come may begin with these tokens: a chat template's opening, and the whole corpus.

        What a context means stays the same. A teacher may keep what it made of them, or read them in a way of its own.

        Args:
            opening_tokens: tokens of the opening.
        """

    def prefix_positions(self, num_tokens: int) -> int:
        """Positions that an expected prefix of so many tokens takes in front of a chunk."""
        return num_tokens

    def expect_model(  # noqa: B027 - most teachers need no name
        self, model: FrozenModel | None, *, longest_tokens: int
    ) -> None:
        """The frozen model that asks and answers, by name, before it is loaded; None where it has none.

        Args:
            longest_tokens: the most that a context, its prompt and the reply take together.

        Raises:
            ValueError: this teacher cannot teach by such a model.
        """

    def prepare(self) -> None:  # noqa: B027 - most teachers need nothing
        """Checks what it needs on this machine, before a model is loaded.

        Raises:
            ValueError: something is missing.
        """

    def check_model(self, config: PretrainedConfig) -> None:  # noqa: B027 - most teachers run elsewhere
        """Checks settings against the model's config, before the model is loaded.

        Raises:
            ValueError: one does not suit it.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its replies beside the model, as JSON values; recordings made with others are refused."""
        return {}

    @property
    def counts(self) -> Mapping[str, int]:
        """What happened so far, by kind; logged with the stream's counts."""
        return {}

    def bind(self, model: Any, tokenizer: Any) -> None:  # noqa: B027 - most teachers need nothing
        """Hands over the run's frozen model and tokenizer; a teacher that brings its own ignores them."""

    def close(self) -> None:  # noqa: B027 - most teachers hold nothing
        """Gives back connections and memory; the teacher may be used again."""


def _held(talk: Talk[T], complete: Callable[[Request], list[Completion]]) -> T:
    """The result of a talk whose every request is completed at once."""
    try:
        request = next(talk)
        while True:
            try:
                completions = complete(request)
            except TeacherError as error:
                request = talk.throw(error)
            else:
                request = talk.send(completions)
    except StopIteration as end:
        result: T = end.value
        return result
