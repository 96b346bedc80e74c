"""The next token of every row of a batch, and the teacher's log-probabilities of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList, MinLengthLogitsProcessor, PreTrainedModel

from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.generation import greedy
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
    reply: list[int] = field(default_factory=list)
    top: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A row's draws are its own, so that its reply does not depend on the rest of the batch.
        draws = np.random.Generator(np.random.Philox(self.seed)) if self.temperature > 0 else None
        self.uniforms = None if draws is None else draws.random(self.max_new_tokens)

    @property
    def place(self) -> int:
        """Of the next token to be read, among the row's own."""
        return len(self.prompt) - 1 + len(self.reply)

    def completion(self, *, finished: bool) -> Completion:
        """The reply as it is."""
        top = None
        if self.top_k:
            ids, logprobs = (np.stack(side) for side in zip(*self.top, strict=True))
            top = TopLogprobs.from_dense(ids, logprobs, min_mass=self.min_mass)
        return Completion(np.asarray(self.reply, dtype=np.int32), top, finished)


class TokenChoice:
    """Chooses for these rows, in their order, until one of them leaves."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self.rows = rows
        self._sampled = [row for row in rows if row.uniforms is not None]
        self._recorded = [row for row in rows if row.top_k]
        self._k = max((row.top_k for row in rows), default=0)
        self._temperatures = torch.tensor([[row.temperature] for row in self._sampled], device=device)
        self._at_sampled, self._at_recorded = (
            None
            if len(some) == len(rows)
            else torch.tensor(
                [i for i, row in enumerate(rows) if row in some], device=device, dtype=torch.long
            )
            for some in (set(self._sampled), set(self._recorded))
        )

    def __call__(self, scores: Tensor) -> Tensor:
        """Token ids [rows] from fp32 scores [rows, vocabulary]."""
        for i, row in enumerate(self.rows):
            if row.limits is not None:
                read = torch.tensor([row.prompt + row.reply], device=scores.device)
                scores[i : i + 1] = row.limits(read, scores[i : i + 1])  # type: ignore[arg-type]
        if self._recorded:
            self._record(scores if self._at_recorded is None else scores[self._at_recorded])
        if not self._sampled:
            return scores.argmax(-1)
        if self._at_sampled is None:
            return self._drawn(scores)
        chosen = scores.argmax(-1)
        chosen[self._at_sampled] = self._drawn(scores[self._at_sampled])
        return chosen

    def _record(self, scores: Tensor) -> None:
        """The k most likely tokens, at temperature 1."""
        top = scores.topk(self._k, dim=-1)
        logprobs = (top.values - scores.logsumexp(-1, keepdim=True)).cpu().numpy()
        ids = top.indices.cpu().numpy()
        for row, row_ids, row_logprobs in zip(self._recorded, ids, logprobs, strict=True):
            row.top.append((row_ids[: row.top_k], row_logprobs[: row.top_k]))

    def _drawn(self, scores: Tensor) -> Tensor:
        uniforms = torch.tensor(
            [[row.uniforms[len(row.reply)]] for row in self._sampled if row.uniforms is not None],
            dtype=torch.float64,
            device=scores.device,
        )
        cumulative = (scores / self._temperatures).softmax(-1).double().cumsum(-1)
        chosen = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        return chosen.clamp(max=scores.shape[-1] - 1)[:, 0]


def makers_limits(
    model: PreTrainedModel, prompt: Sequence[int], *, stop_token_ids: Sequence[int], max_new_tokens: int
) -> LogitsProcessorList | None:
    """What ``model.generate`` would do to the scores of a greedy reply by the model's own defaults, such as tokens that are
    banned; None for nothing."""

    def given(_: Any, input_ids: Tensor, logits_processor: LogitsProcessorList, **others: Any) -> Any:
        return logits_processor

    ids = torch.tensor([list(prompt)], device=model.device)
    limits: Any = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=greedy(stop_token_ids, max_new_tokens),
        custom_generate=given,
    )
    # `greedy` asks for no length, which transformers takes for the prompt's.
    return LogitsProcessorList(p for p in limits if not isinstance(p, MinLengthLogitsProcessor)) or None
