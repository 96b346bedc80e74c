"""Batched generation for the measurements: one prefill of a chunk, many messages behind it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lit_cartridges.attention.cache_argument import cache_argument


class Reader:
    """A model with its tokenizer that replies to many messages about one text.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: the pocket tokenizer, for its chat template.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def reply(
        self,
        text: str | None,
        messages: list[str],
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        seed: int = 0,
    ) -> list[str]:
        """One reply per message, with `text` as the system's message (None: none); greedy at temperature 0."""
        generator = torch.Generator().manual_seed(seed)
        head = "<bos>" if text is None else f"<bos> <system> {text}"
        context = torch.tensor([self._encode(head)])
        cache = DynamicCache(config=self.model.config)
        self.model(context, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(messages))
        ids, mask, positions = self._left_padded(messages, context.shape[1])
        replies: list[list[int]] = [[] for _ in messages]
        done = torch.zeros(len(messages), dtype=torch.bool)
        for _ in range(max_new_tokens):
            logits = self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                **cache_argument(cache),
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = self._choose(logits.float(), temperature, generator)
            done |= chosen == self.tokenizer.eos_token_id
            for reply, token, over in zip(replies, chosen.tolist(), done.tolist(), strict=True):
                if not over:
                    reply.append(token)
            if done.all():
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        tokenizer: Any = self.tokenizer
        return [tokenizer.decode(reply) for reply in replies]

    def _encode(self, text: str) -> list[int]:
        ids: Any = self.tokenizer.encode(text, add_special_tokens=False)
        return list(ids)

    def _left_padded(self, messages: list[str], used: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask over cache and ids, and positions, [messages, tokens] each."""
        rows = [self._encode(f"<user> {message} <assistant>") for message in messages]
        width = max(len(row) for row in rows)
        pads = [width - len(row) for row in rows]
        ids = torch.tensor(
            [[self.tokenizer.pad_token_id] * n + row for n, row in zip(pads, rows, strict=True)]
        )
        mask = torch.tensor([[1] * used + [0] * n + [1] * (width - n) for n in pads])
        positions = used + (torch.arange(width)[None] - torch.tensor(pads)[:, None]).clamp(min=0)
        return ids, mask, positions

    @staticmethod
    def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
