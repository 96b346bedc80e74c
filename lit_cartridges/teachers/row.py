"""One prompt of a batch, and the reply so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import LogitsProcessorList

from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.teachers.contexts import Context
from lit_cartridges.teachers.teacher import Completion


@dataclass(eq=False)
class Row:
    """One prompt and the reply so far.

    Args:
        context: what it reads; None for nothing.
        read_tokens: positions of that.
        seed: of the reply, if it is sampled.
        limits: what the model's makers forbid or force, if anything.
        slot: its own in the batch's `RowTable`.
        launched: tokens of the reply that the device has been told to choose; ``reply`` has those that were read.
    """

    prompt: list[int]
    context: Context | None
    read_tokens: int
    temperature: float
    seed: int
    max_new_tokens: int
    top_k: int
    min_mass: float
    limits: LogitsProcessorList | None = None
    slot: int = 0
    launched: int = 0
    ended: bool = False
    reply: list[int] = field(default_factory=list)
    top: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A row's draws are its own, so that its reply does not depend on the rest of the batch.
        draws = np.random.Generator(np.random.Philox(self.seed)) if self.temperature > 0 else None
        self.uniforms = None if draws is None else draws.random(self.max_new_tokens)

    @property
    def place(self) -> int:
        """Of the next token to be read, among the row's own."""
        return len(self.prompt) - 1 + self.launched

    def completion(self, *, finished: bool) -> Completion:
        """The reply as it is."""
        top = None
        if self.top_k:
            ids, logprobs = (np.stack(side) for side in zip(*self.top, strict=True))
            top = TopLogprobs.from_dense(ids, logprobs, min_mass=self.min_mass)
        return Completion(np.asarray(self.reply, dtype=np.int32), top, finished)
