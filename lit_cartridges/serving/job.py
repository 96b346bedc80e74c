"""What an engine is given and what it tells: a request's rows, and their tokens one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lit_cartridges.errors import CartridgesError
from lit_cartridges.serving.choice import Chosen, ScoreChanges
from lit_cartridges.serving.residents import Resident


class EngineError(CartridgesError, RuntimeError):
    """A request that the engine could not finish; the message says why."""


@dataclass(frozen=True)
class Token:
    """The next token of a job's row ``index``.

    Args:
        end: None while the row goes on; "stop" after a stop token, "length" after the last that was asked for.
        noted: log-probabilities, where they were asked for.
    """

    index: int
    token_id: int
    end: str | None
    noted: Chosen | None


@dataclass(eq=False, kw_only=True)
class Job:
    """One request's rows.

    Args:
        resident: what they read; None for nothing.
        at_once: whether each token is wanted as soon as it is there.
        tell: called in the engine's thread with the tokens of each step, or with what ended the job early; the engine is done
            with the job, and with what it reads, when ``ended`` is called.
    """

    prompt: list[int]
    resident: Resident | None
    n: int
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int
    logprobs: int | None
    changes: ScoreChanges = field(default_factory=ScoreChanges)
    at_once: bool = True
    tell: Callable[[list[Token] | EngineError], None]
    ended: Callable[[], None]
    left: int = field(default=0, init=False)

    @property
    def reach(self) -> int:
        """Places that each of its rows may take in the batch."""
        return len(self.prompt) + self.max_new_tokens - 1


class Engine(Protocol):
    """What a server asks of an engine."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self, why: str = ...) -> None:
        """End all jobs with an error."""

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""

    @property
    def alive(self) -> bool:
        """Whether jobs are worked on."""

    @property
    def rows(self) -> int:
        """That are being written."""

    @property
    def waiting(self) -> int:
        """Jobs of which nothing is written yet."""

    def submit(self, job: Job) -> None:
        """Work on the job as soon as there is room.

        Raises:
            EngineError: the engine has ended.
        """

    def cancel(self, job: Job) -> None:
        """Let the job go; nothing happens where it has ended."""


def row_seed(seed: int, index: int) -> int:
    """Of a job's row, so that rows of one seed differ and do so each time in the same way."""
    return int(np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)[0])
