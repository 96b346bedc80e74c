"""The figures of an evaluation, as torchmetrics that add up over batches and over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cartridges.evals.statistics import share_error


class ShareRight(Metric):
    """Share of right replies, and the standard error of that share."""

    full_state_update = False
    right: Tensor
    asked: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("right", "asked"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, right: Tensor) -> None:
        """Add replies: ``right`` [questions], 1 or True where the reply is right."""
        self.right += right.sum()
        self.asked += right.numel()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Accuracy in 0..1 and its standard error (see `share_error`); not a number before any."""
        share = self.right / self.asked
        return share, share_error(share, self.asked)


class MeanOverTokens(Metric):
    """Mean of something in nats over the reference answers' tokens; every token counts alike."""

    full_state_update = False
    total: Tensor
    tokens: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("total", "tokens"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor) -> None:
        """Add values [tokens], in nats."""
        self.total += nats.double().sum()
        self.tokens += nats.numel()

    def compute(self) -> Tensor:
        """Nats per token; not a number before any token."""
        return self.total / self.tokens


class AnswerLogLikelihood(MeanOverTokens):
    """Log-likelihood of the reference answers."""


class TeacherDivergence(MeanOverTokens):
    """Divergence of a system from the teacher that wrote the answers."""


class SecondsPerAnswer(Metric):
    """Wall-clock seconds spent decoding, per answer."""

    full_state_update = False
    seconds: Tensor
    answers: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("seconds", "answers"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, seconds: float, answers: int) -> None:
        """Add a batch of ``answers`` replies that took ``seconds``."""
        self.seconds += seconds
        self.answers += answers

    def compute(self) -> Tensor:
        """Seconds per answer; not a number before any."""
        return self.seconds / self.answers
