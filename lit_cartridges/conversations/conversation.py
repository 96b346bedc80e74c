"""The hand-over between self-study and training: a conversation, its tokens and the teacher's log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.errors import CartridgesError

Scalar = str | int | float
ROLES = ("system", "user", "assistant")


class ConversationError(CartridgesError, ValueError):
    """A conversation that does not hold together."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One turn.

    Attributes:
        role: system, user or assistant.
        content: the turn's text, special tokens left out.
        token_ids: int32 [tokens] as generated: a question without its end token, an answer with it (unless cut).
        top_logprobs: the teacher's, shape (tokens, k), a row for every entry of `token_ids`; None for questions.
    """

    role: str
    content: str
    token_ids: NDArray[np.int32]
    top_logprobs: TopLogprobs | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConversationError(f"role={self.role!r} must be one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise ConversationError(
                f"content of the {self.role} message must be text, got {type(self.content).__name__}"
            )
        ids = np.asarray(self.token_ids)
        if ids.ndim != 1 or (
            len(ids) and (not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= 2**31)
        ):
            raise ConversationError(
                f"token_ids of the {self.role} message must be a flat list of ids from 0 up"
            )
        object.__setattr__(self, "token_ids", ids.astype(np.int32))
        if self.top_logprobs is not None and self.top_logprobs.shape[0] != len(ids):
            raise ConversationError(
                f"the {self.role} message has {len(ids)} token_ids but {self.top_logprobs.shape[0]} rows of "
                "top_logprobs; they must be one to one: synthesize it again"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (
            (self.role, self.content) == (other.role, other.content)
            and np.array_equal(self.token_ids, other.token_ids)
            and self.top_logprobs == other.top_logprobs
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages about one chunk.

    Attributes:
        messages: user and assistant in turn, user first.
        system_prompt: the text that the teacher saw in front while it answered; empty when it saw none.
        metadata: what made it. Ours holds group, index, chunk_start_token, chunk_num_tokens, seed_prompt,
            corpus_sha256 and tokenizer_fingerprint.
        type: "self_study", or "off_corpus" for one that is answered without any context.
    """

    messages: tuple[Message, ...]
    system_prompt: str = ""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    type: str = "self_study"

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        roles = [message.role for message in self.messages]
        if not roles or roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or len(roles) % 2:
            raise ConversationError(
                f"messages must go user, assistant, user, assistant, …, got {roles or 'none'}"
            )
        for key, value in self.metadata.items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ConversationError(f"metadata[{key!r}]={value!r} must be text or a number")

    @property
    def answers(self) -> Sequence[Message]:
        """The assistant's messages, the ones that training learns from."""
        return self.messages[1::2]

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of all answers together, end tokens included."""
        return sum(len(message.token_ids) for message in self.answers)
