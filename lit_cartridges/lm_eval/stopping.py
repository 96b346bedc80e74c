"""Ends a reply once it holds a text of the task's ``until``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

_MORE_TOKENS = 8  # than the longest text has bytes: tokens that come to no text


class HoldsText(StoppingCriteria):
    """Row by row. transformers' own ``stop_strings`` cannot read every tokenizer's vocabulary; what is decoded is read of any.

    Args:
        tokenizer: of the model.
        texts: not empty ones.
        prompt_tokens: columns that are not the reply's.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], prompt_tokens: int) -> None:
        self.tokenizer, self.texts, self.prompt_tokens = tokenizer, tuple(texts), prompt_tokens
        self._tail = max(len(text.encode()) for text in texts) + _MORE_TOKENS

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Bool [rows]."""
        replies = input_ids[:, max(self.prompt_tokens, input_ids.shape[1] - self._tail) :].tolist()
        ends = [self.tokenizer.decode(reply, skip_special_tokens=True) for reply in replies]
        return torch.tensor(
            [any(text in end for text in self.texts) for end in ends], device=input_ids.device
        )
