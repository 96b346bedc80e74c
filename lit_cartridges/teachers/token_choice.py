"""The next token of every row of a batch, and the teacher's log-probabilities of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinLengthLogitsProcessor, PreTrainedModel

from lit_cartridges.generation import greedy
from lit_cartridges.teachers.row import Row
from lit_cartridges.teachers.row_table import RowTable


class TokenChoice:
    """Chooses for these rows, in their order, until one of them leaves.

    Args:
        picks: compute for those rows alone that need it, which makes shapes depend on them.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device, *, picks: bool) -> None:
        self.rows, self._picks = rows, picks
        self.limited = any(row.limits is not None for row in rows)
        self.top_k = max((row.top_k for row in rows), default=0)
        self.draws, self._at_drawn = _which([row.temperature > 0 for row in rows], device, picks=picks)
        _, self._at_recorded = _which([row.top_k > 0 for row in rows], device, picks=picks)

    @property
    def kind(self) -> tuple[int, bool]:
        """What of it decides which operators it is."""
        return self.top_k, self.draws

    def __call__(self, scores: Tensor, table: RowTable) -> Tensor:
        """Token ids [rows] from fp32 scores [rows, vocabulary]; what is recorded of them goes to ``table``."""
        if self.limited:
            scores = self._within_limits(scores.clone())
        if self.top_k:
            self._record(scores, table)
        chosen = scores.argmax(-1)
        if not self.draws:
            return chosen
        if self._at_drawn is not None:
            chosen[self._at_drawn] = self._drawn(scores[self._at_drawn], table, self._at_drawn)
            return chosen
        return self._drawn(scores, table, None, None if self._picks else chosen)

    def _within_limits(self, scores: Tensor) -> Tensor:
        for i, row in enumerate(self.rows):
            if row.limits is not None:
                read = torch.tensor([row.prompt + row.reply], device=scores.device)
                scores[i : i + 1] = row.limits(read, scores[i : i + 1])  # type: ignore[arg-type]
        return scores

    def _record(self, scores: Tensor, table: RowTable) -> None:
        """The k most likely tokens, at temperature 1."""
        at = self._at_recorded
        scores = scores if at is None else scores[at]
        top = scores.topk(self.top_k, dim=-1)
        logprobs = top.values - scores.logsumexp(-1, keepdim=True)
        for held, new in zip(table.top(self.top_k), (top.indices, logprobs), strict=True):
            if at is None:
                held.copy_(new)
            else:
                held[at] = new

    def _drawn(
        self, scores: Tensor, table: RowTable, at: Tensor | None, likeliest: Tensor | None = None
    ) -> Tensor:
        """By each row's own numbers; ``likeliest`` [rows] where its temperature is 0."""
        slots, drawn = table.now.slots, table.now.drawn
        slots, drawn = (slots, drawn) if at is None else (slots[at], drawn[at])
        temperatures = table.temperatures[slots][:, None]
        warm = temperatures if likeliest is None else temperatures.masked_fill(temperatures == 0, 1)
        cumulative = (scores / warm).softmax(-1).double().cumsum(-1)
        reached = table.uniforms[slots, drawn][:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, reached, right=True).clamp(max=scores.shape[-1] - 1)[:, 0]
        return chosen if likeliest is None else torch.where(temperatures[:, 0] > 0, chosen, likeliest)


def _which(rows: Sequence[bool], device: torch.device, *, picks: bool) -> tuple[bool, Tensor | None]:
    """Whether any, and the places of those; None for all of them."""
    if not picks or all(rows) or not any(rows):
        return any(rows), None
    return True, torch.tensor([i for i, one in enumerate(rows) if one], device=device)


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
