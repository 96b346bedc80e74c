"""Start from a summary of the corpus, which the model itself writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate_from_prefix, greedy
from lit_cartridges.init.init_strategy import InitContext
from lit_cartridges.init.token_strategy import TokenStrategy, repeated
from lit_cartridges.settings import PositiveInt, Range, checked
from lit_cartridges.text import text_ids

_MAP_PROMPT = (
    "Write a dense summary of the text above. Keep every name, number, date and fact that a question may be about, and "
    "leave out everything else. Give only the summary."
)
_REDUCE_PROMPT = (
    "The text above consists of notes on consecutive parts of one longer text. Merge them into one dense summary that "
    "keeps the most important names, numbers, dates and facts. Give only the summary."
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A user message, for the renderer."""

    content: str
    role: str = "user"


class Summary(TokenStrategy):
    """Prefill of a summary that the frozen student writes of the corpus, part by part, greedily.

    Map: each chunk of the corpus is put into the context, and the model is asked to summarize it. Reduce: while the
    summaries together are longer than the cartridge, they take the corpus' place and are summarized in their turn; what is
    still too long after the last one is cut. A shorter summary is followed by the first tokens of the corpus, which
    say more than the same summary again. No paper compares it in this form; HazyResearch's code has a similar option.

    Args:
        chunk_tokens: length of a chunk, at most two thirds of what the context holds beside the template.
        shrink: a chunk's summary may take the chunk's length divided by this, at least 2, or more where the cartridge has more
            room for each chunk.
        map_prompt: the user message that asks for the summary of a chunk of the corpus.
        reduce_prompt: the one that asks for a summary of summaries.

    Raises:
        ValueError: a chunk without a token, or summaries that do not shorten.
    """

    @checked
    def __init__(
        self,
        *,
        chunk_tokens: PositiveInt = 2048,
        shrink: Annotated[int, Range(least=2, most=2**31 - 1)] = 8,
        map_prompt: str = _MAP_PROMPT,
        reduce_prompt: str = _REDUCE_PROMPT,
    ) -> None:
        self.chunk_tokens, self.shrink = chunk_tokens, shrink
        self.map_prompt, self.reduce_prompt = map_prompt, reduce_prompt

    def body_ids(self, context: InitContext, num_tokens: int) -> list[int]:
        """See `TokenStrategy.body_ids`."""
        ids, prompt = [int(i) for i in context.corpus_ids], self.map_prompt
        while True:
            shorter, chunks = self._summarized(context, ids, prompt, num_tokens)
            # One chunk's summary is as short as it gets; and a tokenizer may need more tokens for a text than the
            # model wrote it with, which could go on for ever.
            done = len(shorter) <= num_tokens or chunks == 1 or len(shorter) >= len(ids)
            ids, prompt = shorter, self.reduce_prompt
            if done:
                break
        rest = repeated(context.corpus_ids, num_tokens, of="the corpus")
        return (ids + rest)[:num_tokens]

    def _summarized(
        self, context: InitContext, ids: Sequence[int], prompt: str, num_tokens: int
    ) -> tuple[list[int], int]:
        """The summaries of all chunks of ``ids``, one after the other, as token ids; and how many there were."""
        renderer: Any = context.renderer_for(self)
        prompt_ids = renderer.prompt_ids([_Request(prompt)])
        chunk_tokens = self._fitting_chunk(context, len(prompt_ids))
        starts = range(0, len(ids), chunk_tokens)
        # Enough to fill the cartridge where the model has so much to say, but no more than the context leaves.
        longest = max(chunk_tokens // self.shrink, num_tokens // len(starts), 1)
        if context.max_positions is not None:
            taken = len(context.opening_ids) + chunk_tokens + len(prompt_ids)
            longest = min(longest, context.max_positions - taken)
        texts = []
        for start in context.bar(starts, "summary"):
            context_ids = [*map(int, context.opening_ids), *ids[start : start + chunk_tokens]]
            texts.append(self._reply(context, context_ids, prompt_ids, longest))
        return text_ids(renderer.tokenizer, "\n\n".join(text for text in texts if text)), len(starts)

    def _fitting_chunk(self, context: InitContext, prompt_tokens: int) -> int:
        if context.max_positions is None:
            return self.chunk_tokens
        free = context.max_positions - len(context.opening_ids) - prompt_tokens
        if free < 3:
            raise ValueError(
                f"init=Summary: the prompt of {prompt_tokens} tokens and the chat template's opening of "
                f"{len(context.opening_ids)} leave {free} of max_position_embeddings={context.max_positions} for a "
                "text and its summary; shorten map_prompt and reduce_prompt"
            )
        return min(self.chunk_tokens, free * 2 // 3)

    def _reply(
        self, context: InitContext, context_ids: Sequence[int], prompt_ids: Sequence[int], max_new_tokens: int
    ) -> str:
        """The model's greedy answer to the prompt, with ``context_ids`` in front of it."""
        renderer: Any = context.renderer_for(self)
        model: Any = context.model
        stops = renderer.stop_token_ids(model.generation_config)
        keys, values = prefill(model, context_ids)
        ids = torch.tensor([list(prompt_ids)], device=model.device)
        reply = generate_from_prefix(
            model, keys, values, ids, generation_config=greedy(stops, max_new_tokens)
        )[0, len(prompt_ids) :]
        return renderer.text(reply.tolist())
