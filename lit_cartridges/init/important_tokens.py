"""Start from the corpus's positions that questions about it attend to most."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_cartridges.attention.rotary import Rotary
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.init.reference_windows import (
    ReferenceWindow,
    opening_tokens,
    read_windows,
    require_positions,
)
from lit_cartridges.settings import Count, PositiveInt, checked


class ImportantTokens(InitStrategy):
    """The ``num_tokens`` positions that receive the most attention from reference queries, in the corpus's order.

    In the line of H2O (arXiv 2306.14048) and SnapKV (arXiv 2404.06654), with two deviations: queries come from texts
    read behind the corpus, self-study conversations or the corpus again (KVzip, arXiv 2505.23416), and the keys that
    stay are rotated to the positions 0..num_tokens-1, since a cartridge's user begins at num_tokens. The attention is a
    softmax over one window's positions alone, in fp32; a corpus longer than a window competes with itself by it. The
    chat template's opening is always kept; later windows read it again, and add nothing of it.

    Args:
        queries: "self_study": conversations about the corpus; "corpus": its own tokens, read a second time.
        per: "head": every key-value head keeps positions of its own; "layer": all heads of a layer keep the same.
        window_tokens: the most tokens prefilled at a time; fewer where the context holds fewer.
        num_conversations: how many conversations to ask for.
        max_query_tokens: of their tokens, at most so many become queries.
    """

    @checked
    def __init__(
        self,
        *,
        queries: Literal["self_study", "corpus"] = "self_study",
        per: Literal["head", "layer"] = "head",
        window_tokens: PositiveInt = 4096,
        num_conversations: Count = 8,
        max_query_tokens: PositiveInt = 512,
    ) -> None:
        self.queries, self.per = queries, per
        self.window_tokens, self.num_conversations = window_tokens, num_conversations
        self.max_query_tokens = max_query_tokens
        self.reads_conversations = queries == "self_study"

    @torch.no_grad()
    def tensors(self, context: InitContext) -> InitialTensors:
        require_positions(context, self)
        rotary, device = Rotary(context.model), context.model.device
        texts = None
        if self.queries == "self_study":
            texts = context.conversations(self.num_conversations, self)
        kept: list[_Kept] = []
        for window in read_windows(
            context, texts, window_tokens=self.window_tokens, max_query_tokens=self.max_query_tokens
        ):
            for layer in range(len(window.keys)):
                new = self._candidates(window, layer, first=window.start == opening_tokens(context))
                if layer < len(kept):
                    new = kept[layer].joined(new)
                    kept[layer] = new.best(context.num_tokens)
                else:
                    kept.append(new.best(context.num_tokens))
        ends = torch.arange(context.num_tokens, device=device)
        keys = [
            rotary.rotate(one.keys, layer=layer, from_positions=one.positions, to_positions=ends)
            for layer, one in enumerate(kept)
        ]
        return InitialTensors(keys, [one.values for one in kept])

    def _candidates(self, window: ReferenceWindow, layer: int, *, first: bool) -> _Kept:
        """All positions of a window; its opening too, with infinite scores, if it is the ``first``."""
        keys, values = window.keys[layer], window.values[layer]
        scores = torch.stack([window.attention(layer, head)[0].mean(0) for head in range(len(keys))])
        if self.per == "layer":
            scores = scores.mean(0, keepdim=True).expand(len(keys), -1).clone()
        opening = window.opening_tokens
        scores[:, :opening] = torch.inf
        positions = torch.arange(window.num_tokens, device=keys.device).expand(len(keys), -1)
        cut = 0 if first else opening
        return _Kept(keys[:, cut:], values[:, cut:], scores[:, cut:], positions[:, cut:])

    def describe(self) -> str:
        return f"ImportantTokens({self.queries} per {self.per})"


class _Kept:
    """Keys and values [kv_heads, tokens, head_dim] with their scores and positions [kv_heads, tokens], in order."""

    def __init__(self, *sides: Tensor) -> None:
        self.sides = sides
        self.keys, self.values, self.scores, self.positions = sides

    def joined(self, other: _Kept) -> _Kept:
        return _Kept(*(torch.cat(pair, dim=1) for pair in zip(self.sides, other.sides, strict=True)))

    def best(self, num_tokens: int) -> _Kept:
        """The ``num_tokens`` with the highest scores, earlier ones where scores are equal."""
        best = (
            self.scores.sort(dim=1, descending=True, stable=True).indices[:, :num_tokens].sort(dim=1).values
        )
        return _Kept(
            *(side.take_along_dim(best[..., None] if side.ndim == 3 else best, 1) for side in self.sides)
        )
