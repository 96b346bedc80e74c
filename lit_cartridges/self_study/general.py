"""Conversations about anything, which the model asks and answers without any context (Cartridges++, 2026, «data mixing»).

A deviation from the paper, which takes a data set's answers and the model's log-probabilities of them: here the model writes
the answers as well, as self-study does, so that any teacher will do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.recording import tokenizer_fingerprint
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.teachers.teacher import Completion, Request, Sampling, Talk, Teacher, TeacherError

CONVERSATIONS_PER_GROUP = 32
# Keys of the random streams, others than a Synthesizer's.
_CONVERSATION_STREAM, _ORDER_STREAM = 2, 3


class GeneralConversations:
    """Makes conversations, group by group; (seed, index) decides each.

    Args:
        requests: the users' messages, of which every one is asked before any is asked again; or seed prompts, kind →
            wordings, by which the teacher writes them.
        renderer, teacher: as of a `Synthesizer`.
        seed: of all draws.
        question, answer: how requests and answers are decoded.
        top_k, min_mass: log-probabilities kept per answer token.
        longest_tokens: of a request with its template; longer ones are left out. None for any length.
    """

    def __init__(
        self,
        *,
        requests: Sequence[str] | Mapping[str, Sequence[str]],
        renderer: ChatRenderer,
        teacher: Teacher,
        seed: int,
        question: Sampling,
        answer: Sampling,
        top_k: int,
        min_mass: float,
        longest_tokens: int | None = None,
    ) -> None:
        self.requests, self.renderer, self.teacher, self.seed = requests, renderer, teacher, seed
        self.question, self.answer, self.top_k, self.min_mass = question, answer, top_k, min_mass
        self.longest_tokens = longest_tokens
        self.turn: AbstractContextManager[Any] = nullcontext()
        self.counts = {"made": 0, "left_out": 0}
        self._known = {"tokenizer_fingerprint": tokenizer_fingerprint(renderer.tokenizer)}
        self._order = lru_cache(2)(self._new_order)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a group's conversations beside its index, as JSON values."""
        digest = hashlib.sha256(json.dumps(self.requests).encode()).hexdigest()
        return {
            **self._known,
            **{name: getattr(self, name) for name in ("seed", "top_k", "min_mass", "longest_tokens")},
            "requests_sha256": digest,
            "question": asdict(self.question),
            "answer": asdict(self.answer),
            **({"teacher": self.teacher.settings} if self.teacher.settings else {}),
        }

    def conversations(self, group_index: int) -> list[Conversation]:
        """The group's conversations; those whose request is too long, or whose answer came out empty, are left out."""
        return next(self.conversations_of([group_index]))

    def conversations_of(self, group_indices: Iterable[int]) -> Iterator[list[Conversation]]:
        """`conversations` of groups one by one."""
        if not self.teacher.stop_token_ids:
            self.teacher.stop_token_ids = self.renderer.stop_token_ids()
        with self.turn:
            for made in self.teacher.converse(self._talk(index) for index in group_indices):
                self.counts["made"] += len(made)
                self.counts["left_out"] += CONVERSATIONS_PER_GROUP - len(made)
                yield made

    def _talk(self, group_index: int) -> Talk[list[Conversation]]:
        first = group_index * CONVERSATIONS_PER_GROUP
        indices = range(first, first + CONVERSATIONS_PER_GROUP)
        rngs = [self._rng(_CONVERSATION_STREAM, index) for index in indices]
        seeds = [rng.integers(2**31, size=2).tolist() for rng in rngs]
        if isinstance(self.requests, Mapping):
            drawn = [self._seed_prompt(self.requests, rng) for rng in rngs]
            kinds, wordings = zip(*drawn, strict=True)
            written = yield self._request(
                [self.renderer.bare_prompt_ids([user(wording)]) for wording in wordings],
                self.question,
                [pair[0] for pair in seeds],
            )
            messages = [self._written(one) for one in written]
        else:
            kinds = ("",) * len(indices)
            messages = [user(self.requests[self._place(index)]) for index in indices]
        prompts = {i: self.renderer.bare_prompt_ids([m]) for i, m in enumerate(messages) if m.content}
        fitting = [i for i, ids in prompts.items() if len(ids) <= (self.longest_tokens or len(ids))]
        if not fitting:
            return []
        answers = yield self._request(
            [prompts[i] for i in fitting], self.answer, [seeds[i][1] for i in fitting], top_k=self.top_k
        )
        if len(answers) != len(fitting):
            raise TeacherError(
                f"{type(self.teacher).__name__} gave {len(answers)} completions for {len(fitting)} prompts; it must give one "
                "each"
            )
        made = []
        for i, answer in zip(fitting, answers, strict=True):
            if text := self.renderer.text(answer.token_ids):
                reply = Message("assistant", text, answer.token_ids, answer.top_logprobs)
                known = {"group": group_index, "index": indices[i], "kind": kinds[i], **self._known}
                made.append(Conversation((messages[i], reply), metadata=known, type="off_corpus"))
        return made

    def _request(
        self, prompts: list[list[int]], sampling: Sampling, seeds: list[int], top_k: int = 0
    ) -> Request:
        return Request(
            context_ids=[],
            prompts=prompts,
            sampling=sampling,
            seeds=seeds,
            top_k=top_k,
            min_mass=self.min_mass,
        )

    def _written(self, completion: Completion) -> Message:
        ids = self.renderer.without_end(completion.token_ids)
        return Message("user", self.renderer.text(ids), ids)

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(stream, number)))
        )

    @staticmethod
    def _seed_prompt(prompts: Mapping[str, Sequence[str]], rng: np.random.Generator) -> tuple[str, str]:
        kind = list(prompts)[int(rng.integers(len(prompts)))]
        return kind, prompts[kind][int(rng.integers(len(prompts[kind])))]

    def _place(self, index: int) -> int:
        """Of the request that the conversation of this number asks."""
        pass_, place = divmod(index, len(self.requests))
        return int(self._order(pass_)[place])

    def _new_order(self, pass_: int) -> NDArray[np.int64]:
        return self._rng(_ORDER_STREAM, pass_).permutation(len(self.requests))
