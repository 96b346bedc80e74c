"""Start from keys, biases and values fitted so that the corpus's attention is matched, without gradient descent."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_cartridges.attention.rotary import Rotary
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.init.matched_head import HeadProblem
from lit_cartridges.init.reference_windows import (
    ReferenceWindow,
    opening_tokens,
    read_windows,
    require_positions,
)
from lit_cartridges.settings import Count, PositiveFloat, PositiveInt, checked


class AttentionMatching(InitStrategy):
    """Attention Matching (arXiv 2602.16284): per layer and head a subset of keys, a bias for each, and new values.

    Biases come from non-negative least squares on the queries' attention mass, values from least squares on their
    attention output; the reference queries are those of self-study conversations read behind the corpus.

    Deviations from the paper:

    - The ridge of both fits pulls to weight 1 and to the keys' own values, not to zero: where all positions stay,
      nothing changes. Each query's mass is scaled by the whole, where the paper scales by its largest score.
    - A cartridge's user begins at position num_tokens, not behind the corpus, so all keys are rotated by the difference:
      every query sees every key at its old distance, and its score is the old one exactly.
    - The template's opening is kept as it is, with biases of 0. A corpus longer than a window is fitted window by window
      as if each alone stood behind the opening, with a share of the positions by its length; their masses then add up
      to each other's. Every window stands directly in front of the user.
    - In a sliding-window layer the fit knows that the reader's window counts the cartridge's places.
    - All heads keep equally many keys (the paper also shares them out unequally).

    Args:
        select: "attention": the keys with the highest root mean square of attention; "omp": orthogonal matching pursuit.
        bias: fit biases; without them the result fits other systems' formats and plain transformers caches.
        ridge: of both fits, as a share of the mean squared column norm.
        window_tokens: the most tokens prefilled at a time; fewer where the context holds fewer.
        num_conversations: how many conversations to ask for.
        max_query_tokens: of their tokens, at most so many become queries; a fit holds [query heads per key-value head ·
            max_query_tokens, window_tokens] numbers of 8 bytes at a time.
        keys_per_step: keys that a step of "omp" takes; the paper's is 1, and 4 where it hurries.
    """

    reads_conversations = True

    @checked
    def __init__(
        self,
        *,
        select: Literal["attention", "omp"] = "attention",
        bias: bool = True,
        ridge: PositiveFloat = 1e-3,
        window_tokens: PositiveInt = 4096,
        num_conversations: Count = 8,
        max_query_tokens: PositiveInt = 512,
        keys_per_step: PositiveInt = 4,
    ) -> None:
        self.select, self.bias, self.ridge = select, bias, ridge
        self.window_tokens, self.num_conversations = window_tokens, num_conversations
        self.max_query_tokens, self.keys_per_step = max_query_tokens, keys_per_step

    @torch.no_grad()
    def tensors(self, context: InitContext) -> InitialTensors:
        require_positions(context, self)
        rotary, opening = Rotary(context.model), opening_tokens(context)
        texts = context.conversations(self.num_conversations, self)
        corpus, places = len(context.context_ids) - opening, context.num_tokens - opening
        parts: InitialTensors | None = None
        for window in read_windows(
            context, texts, window_tokens=self.window_tokens, max_query_tokens=self.max_query_tokens
        ):
            # Shares that sum to all places: the cumulative share up to each window's end, rounded down.
            before, stop = window.start - opening, window.start - opening + window.num_tokens - opening
            first = opening + places * before // max(corpus, 1)
            count = opening + places * stop // max(corpus, 1) - first
            part = self._matched(window, rotary, context.num_tokens, first, count)
            parts = part if parts is None else parts.followed_by(part)
        assert parts is not None, "a corpus has at least one window"
        return parts

    def _matched(
        self, window: ReferenceWindow, rotary: Rotary, num_tokens: int, first: int, count: int
    ) -> InitialTensors:
        """``count`` positions at the cartridge's places from ``first`` on; the first window brings the opening too."""
        cut = 0 if window.start == window.opening_tokens else window.opening_tokens
        shift = num_tokens - window.num_tokens
        sides: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for layer, (key, value) in enumerate(zip(window.keys, window.values, strict=True)):
            heads = [self._matched_head(window, layer, head, shift, first, count) for head in range(len(key))]
            chosen, values, biases = (torch.stack(side) for side in zip(*heads, strict=True))
            moved = rotary.rotate(
                key.take_along_dim(chosen[..., None], 1),
                layer=layer,
                from_positions=chosen,
                to_positions=chosen + shift,
            )
            for side, x in zip(sides, (moved, values.to(value.dtype), biases.float()), strict=True):
                side.append(x[:, cut:])
        keys, fitted, biases_ = sides
        return InitialTensors(keys, fitted, biases_ if self.bias else None)

    def _matched_head(
        self, window: ReferenceWindow, layer: int, head: int, shift: int, first: int, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions in the window, values and biases of the opening and of ``count`` keys behind it."""
        attention, shares = window.attention(layer, head, torch.float64)
        values, opening = window.values[layer][head].double(), window.opening_tokens
        device = values.device
        leading = torch.arange(opening, device=device)
        places = torch.arange(first, first + count, device=device)
        problem = HeadProblem(
            attention=attention,
            shares=shares,
            values=values,
            opening_tokens=opening,
            opening_seen=_seen(window, layer, leading, shift),
        )
        if self.select == "attention":
            chosen = problem.by_attention(count)
        else:
            chosen = problem.by_matching_pursuit(count, keys_per_step=self.keys_per_step, ridge=self.ridge)
        seen = _seen(window, layer, places, shift)
        weights = torch.ones(count, dtype=values.dtype, device=device)
        if self.bias and count:
            weights = problem.weights(chosen, seen, ridge=self.ridge)
        fitted = values[chosen]
        if count:
            fitted = problem.fitted_values(chosen, seen, weights, ridge=self.ridge)
        ones = torch.ones(opening, dtype=values.dtype, device=device)
        return (
            torch.cat([leading, chosen]),
            torch.cat([values[:opening], fitted]),
            torch.cat([ones, weights]).log(),
        )

    def describe(self) -> str:
        return f"AttentionMatching({self.select}{', bias' if self.bias else ''})"


def _seen(window: ReferenceWindow, layer: int, places: Tensor, shift: int) -> Tensor:
    """[n, places], 1 where the queries, read behind the cartridge, see its ``places``, and 0 elsewhere."""
    hidden = window.hidden(layer, places, shift)
    if hidden is None:
        return torch.ones(len(window.query_positions), len(places), dtype=torch.float64, device=places.device)
    return (~hidden).double()
