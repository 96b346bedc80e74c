"""Questions as vectors: what the frozen model makes of them, without a cartridge, half-way up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.models.readable import unwrapped
from lit_cartridges.routing.question_span import QuestionSpan
from lit_cartridges.routing.router import RouterError

_BATCH_TOKENS = 4096


class QuestionEmbedder:
    """The mean of a layer's hidden states over a question's tokens, of length 1 (Cartridges++, the router).

    The question stands in the chat template, behind what was said before it. Rows of one length are read together, so there is
    no padding, and no row depends on another. Threads may share one, also while others read cartridges on the same model.
    """

    def __init__(self, model: Any, renderer: ChatRenderer, *, span: QuestionSpan | None = None) -> None:
        self.model, self.renderer = unwrapped(model), renderer
        self.span = span or QuestionSpan(renderer)

    def embed_questions(self, questions: Sequence[str], layer: int) -> Tensor:
        """fp32 [questions, width], each alone in its chat; ``layer`` as `embed` has it."""
        return self.embed([self.renderer.bare_prompt_ids([user(text)]) for text in questions], layer)

    @torch.no_grad()
    def embed(self, chats: Sequence[Sequence[int]], layer: int) -> Tensor:
        """fp32 [chats, width] on the CPU.

        Args:
            chats: token ids from the beginning to where the answer begins.
            layer: after which the hidden states are taken, from 1.

        Raises:
            RouterError: the model does not tell hidden states of each token, or they are not finite.
        """
        spans = [self.span.of(ids) for ids in chats]
        order = sorted(range(len(chats)), key=lambda i: spans[i].stop)
        found: dict[int, Tensor] = {}
        for stop, group in groupby(order, key=lambda i: spans[i].stop):
            rows, most = list(group), max(1, _BATCH_TOKENS // stop)
            for start in range(0, len(rows), most):
                part = rows[start : start + most]
                hidden = self._hidden([chats[i][:stop] for i in part], layer)
                for i, states in zip(part, hidden, strict=True):
                    found[i] = normalize(states[spans[i]].float().mean(dim=0), dim=0).cpu()
        vectors = torch.stack([found[i] for i in range(len(chats))])
        if not torch.isfinite(vectors).all():
            raise RouterError(
                f"the hidden states after layer {layer} are not finite in {str(self.model.dtype).removeprefix('torch.')}; "
                "load the model in bfloat16 or float32"
            )
        return vectors

    def _hidden(self, rows: Sequence[Sequence[int]], layer: int) -> Tensor:
        """[rows, tokens, width] of rows of one length."""
        ids = torch.tensor([list(row) for row in rows], device=self.model.device)
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
        with reads_prefixes(self.model), torch.autocast(ids.device.type, enabled=False):
            out = self.model.base_model(
                ids,
                position_ids=positions,
                use_cache=False,
                output_hidden_states=True,
                reading=Reading(position_ids=positions),
            )
        known = out.hidden_states or ()
        if len(known) <= layer or known[layer].shape[:-1] != ids.shape:
            raise RouterError(
                f"{type(self.model).__name__} does not tell one vector of each token after layer {layer}; no router works with it"
            )
        states: Tensor = known[layer]
        return states
