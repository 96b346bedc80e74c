"""A conversation while it is being made."""

from __future__ import annotations

from dataclasses import dataclass, field

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import user


@dataclass(slots=True)
class Dialogue:
    """The Synthesizer's notes on one conversation.

    Attributes:
        index: the conversation's place in the stream.
        kind: kind of seed prompt.
        seed_prompt: its wording.
        seeds: per round, the sampling seeds of question and answer.
        messages: user and assistant in turn, whole rounds only once a round is over.
        cut_answers: answers cut at their length limit.
        ended: nothing more is to be asked.
    """

    index: int
    kind: str
    seed_prompt: str
    seeds: list[list[int]]
    messages: list[Message] = field(default_factory=list)
    cut_answers: int = 0
    ended: bool = False

    def as_seen_by_user(self) -> list[Message]:
        """The dialogue with its roles turned round, behind the seed prompt: the teacher's next reply is a question."""
        turned = [user(self.seed_prompt)]
        for message in self.messages:
            if message.role == "user":
                turned.append(Message("assistant", message.content, message.token_ids))
            else:
                turned.append(user(message.content))
        return turned
