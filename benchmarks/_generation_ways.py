"""Conversations about one chunk, question and answer of fixed lengths: by `LocalTeacher`, and by plain `generate`.

- `ours`: the chunk is prefilled once for all questions and answers, and all rows decode together;
- `batched`: one `model.generate` per role, the chunk repeated in every row;
- `single`: one `model.generate` per conversation and role, the chunk in each prompt.

Same model, greedy, so that the tokens agree. The peers take no log-probabilities; ours takes 20 per answer token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lit_cartridges.generation import left_padded
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Request, Sampling, Talk

OURS, SINGLE, BATCHED = "LocalTeacher", "generate, one by one", "generate, batched"


class Conversations:
    """The ways to make them.

    Args:
        prompt_tokens: shortest and longest seed prompt; lengths are spread evenly between.
    """

    def __init__(
        self,
        model: Any,
        *,
        chunk_tokens: int,
        count: int,
        question_tokens: int,
        answer_tokens: int,
        prompt_tokens: tuple[int, int] = (24, 24),
        max_rows: int = 64,
    ) -> None:
        self.model, self.count = model, count
        self.question_tokens, self.answer_tokens = question_tokens, answer_tokens
        self.chunk = self._random(chunk_tokens)
        lengths = torch.linspace(*prompt_tokens, count).round().int().tolist()
        self.prompts = [self._random(length) for length in lengths]
        self.marker = self._random(4)
        self.teacher = LocalTeacher(max_rows=max_rows)
        self.teacher.bind(model, None)

    @property
    def new_tokens(self) -> int:
        """Of all conversations."""
        return self.count * (self.question_tokens + self.answer_tokens)

    @property
    def tokens_of_one(self) -> float:
        """Of a conversation, its seed prompt included: what a training step reads."""
        return self.new_tokens / self.count + len(self.marker) + sum(map(len, self.prompts)) / self.count

    def ours(self) -> list[list[int]]:
        """Token ids of each conversation, from the question on."""
        return together([self])[0]

    def talk(self) -> Talk[list[list[int]]]:
        """The same, as a teacher asks for one reply after the other."""
        asked = yield self._request(self.prompts, self.question_tokens)
        told = self._told([c.token_ids.tolist() for c in asked])
        replies = yield self._request(told, self.answer_tokens, top_k=20)
        return [[*q, *r.token_ids.tolist()] for q, r in zip(told, replies, strict=True)]

    def _request(self, prompts: list[list[int]], new_tokens: int, **options: int) -> Request:
        return Request(
            context_ids=self.chunk,
            prompts=prompts,
            sampling=Sampling(0.0, new_tokens),
            seeds=list(range(self.count)),
            **options,
        )

    def batched(self, prompts: list[list[int]] | None = None) -> list[list[int]]:
        """The same tokens."""
        told = self._told(self._generate(prompts or self.prompts, self.question_tokens))
        return [[*q, *r] for q, r in zip(told, self._generate(told, self.answer_tokens), strict=True)]

    def single(self, count: int | None = None) -> list[list[int]]:
        """The same tokens, of the first ``count`` conversations."""
        return [self.batched([row])[0] for row in self.prompts[:count]]

    def _told(self, questions: list[list[int]]) -> list[list[int]]:
        return [question + self.marker for question in questions]

    def _generate(self, rows: list[list[int]], new_tokens: int) -> list[list[int]]:
        ids, mask = left_padded([self.chunk + row for row in rows], 0, self.model.device)
        out = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return out[:, ids.shape[1] :].tolist()

    def _random(self, tokens: int) -> list[int]:
        return torch.randint(3, self.model.config.vocab_size, (tokens,)).tolist()


def together(groups: Sequence[Conversations]) -> list[list[list[int]]]:
    """Conversations about several chunks, made by the first one's teacher in one batch; per group as `Conversations.ours`."""
    teacher = groups[0].teacher
    teacher.forget()  # the chunks are new
    return list(teacher.converse(group.talk() for group in groups))
