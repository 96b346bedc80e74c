"""Chats as token ids, with the chunk, or the cartridge instead of it, in the system message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.conversations.chat_pieces import ChatPieces, RendererError, chat_pieces
from lit_cartridges.conversations.conversation import Message
from lit_cartridges.text import encoder_of

__all__ = ["ChatRenderer", "RendererError", "user"]

_END_OF_TURN_WITHIN = (
    3  # tokens from an answer's last word to its end token: at most some white space and the token
)
_THOUGHT_ENDS = ("</think>", "[/THINK]")


def user(content: str) -> Message:
    """A user message that is known by its text alone."""
    return Message("user", content, np.empty(0, dtype=np.int32))


class ChatRenderer:
    """Renders through the tokenizer's own chat template, which is taken apart once.

    The context is head + chunk, and a cartridge stands in the place of both; `prompt_ids` is all that follows either.
    Special tokens are the template's alone: their names in a message or in the system template are text.

    Two deviations from `apply_chat_template` in dialogues of several rounds, both needed for a student that reads
    the whole dialogue in one pass to see what the teacher saw while it answered: earlier answers stand as the exact
    ids that were generated, and each is opened by the generation prompt it was generated from (templates of thinking
    models would drop the empty thought from earlier turns).
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_template: str = "{chunk}",
        enable_thinking: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer, with or without a chat template.
            system_template: the system message, with {chunk} where the chunk goes.
            enable_thinking: given to the template; those of thinking models open an empty thought when it is False.
            template_options: further variables of the template.

        Raises:
            RendererError: templates that cannot be used.
        """
        self.tokenizer = tokenizer
        self.system_template = system_template
        self.encoder = encoder_of(tokenizer)
        options = {"enable_thinking": enable_thinking, **(template_options or {})}
        self.pieces: ChatPieces = chat_pieces(self.encoder, system_template=system_template, options=options)
        self._head_ids = self.encoder.ids(*self.pieces.head)
        self._end_of_turn = self._find_end_of_turn()

    def context_ids(self, chunk_ids: Sequence[int] | NDArray[Any]) -> list[int]:
        """Everything up to and including the chunk."""
        return self._head_ids + [int(i) for i in chunk_ids]

    def prompt_ids(self, messages: Sequence[Message], *, lead: str = "") -> list[int]:
        """Everything from the chunk to where the next answer begins, for user, (assistant, user,) … messages.

        Args:
            lead: the beginning of that answer, which the model then goes on with.

        Raises:
            RendererError: the messages do not go user, assistant, …, user.
        """
        return self._dialogue(messages, lead, bare=False)

    def bare_prompt_ids(self, messages: Sequence[Message], *, lead: str = "") -> list[int]:
        """The same chat from its very start, without a system message: for answers without context."""
        return self._dialogue(messages, lead, bare=True)

    def answer_ids(self, answer: str, *, lead: str = "") -> list[int]:
        """An answer as the model would write it behind a prompt (and a lead), without an end token."""
        between = " " if lead else self.pieces.answer_lead
        prompt = self.encoder.following(self.pieces.answer_open, lead)
        ids = self.encoder.following(self.pieces.answer_open, lead, between, answer)
        if ids[: len(prompt)] == prompt:
            return ids[len(prompt) :]
        return self.encoder.following(between, answer)

    def conversation_ids(self, messages: Sequence[Message]) -> tuple[NDArray[np.int32], list[slice]]:
        """All that a student reads after its cartridge, and where each answer's tokens stand in it.

        The token at position i is predicted from those before it, so an answer at `span` is scored by the logits of
        `slice(span.start - 1, span.stop - 1)`.

        Returns:
            int32 [tokens], ending with the last answer's last token, and one span per assistant message.
        """
        spans = []
        for i in range(1, len(messages), 2):
            start = len(self.prompt_ids(messages[:i]))
            spans.append(slice(start, start + len(messages[i].token_ids)))
        ids = self.prompt_ids(messages[:-1]) + messages[-1].token_ids.tolist()
        return np.asarray(ids, dtype=np.int32), spans

    def system_prompt(self, chunk_ids: Sequence[int] | NDArray[Any]) -> str:
        """The system message's text, for people and recordings."""
        chunk = self.tokenizer.decode([int(i) for i in chunk_ids], skip_special_tokens=True)
        return self.system_template.replace("{chunk}", str(chunk))

    def without_end(self, token_ids: NDArray[Any]) -> NDArray[np.int32]:
        """A reply's ids without the stop tokens at its end."""
        ids, stops = [int(i) for i in token_ids], self.stop_token_ids()
        while ids and ids[-1] in stops:
            ids.pop()
        return np.asarray(ids, dtype=np.int32)

    def text(self, token_ids: NDArray[Any]) -> str:
        """A reply's text: no special tokens, no white space around it, and of a thinking model's reply what follows
        the thought."""
        ids = [int(i) for i in token_ids]
        marks = {self.encoder.control[name] for name in _THOUGHT_ENDS if name in self.encoder.control}
        if marks:
            ids = ids[max((i + 1 for i, token_id in enumerate(ids) if token_id in marks), default=0) :]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        # To a tokenizer without such a token a thought's end is a word, of a thinking model's template at least.
        if not marks and _THOUGHT_ENDS[0] in str(getattr(self.tokenizer, "chat_template", None)):
            text = text.rpartition(_THOUGHT_ENDS[0])[2]
        return text.strip()

    def stop_token_ids(self, model_generation_config: Any = None) -> tuple[int, ...]:
        """Ids that end a reply, ascending: the tokenizer's and the generation config's end tokens, and the special
        token that the template puts after an answer."""
        ids: set[int] = set()
        for owner in (self.tokenizer, model_generation_config):
            end = getattr(owner, "eos_token_id", None)
            ids.update([end] if isinstance(end, int) else end or [])
        if self._end_of_turn is not None:
            ids.add(self._end_of_turn)
        return tuple(sorted(ids))

    def _dialogue(self, messages: Sequence[Message], lead: str, *, bare: bool) -> list[int]:
        roles = [message.role for message in messages]
        if len(roles) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
            raise RendererError(
                f"messages must go user, assistant, …, user to be answered, got {roles or 'none'}"
            )
        opening: tuple[str, ...] = (self.pieces.bare_open,) if bare else self.pieces.user_open
        encode = self.encoder.ids if bare else self.encoder.following
        ids: list[int] = []
        for i in range(0, len(messages), 2):
            ending = (lead,) if i + 1 == len(messages) else ()
            turn = encode(*opening, self._content(messages[i]), self.pieces.answer_open, *ending)
            if ids:
                turn = self._after_answer(ids[-1], turn)
            ids += turn
            if i + 1 < len(messages):
                ids += messages[i + 1].token_ids.tolist()
            opening, encode = (self.pieces.next_user,), self.encoder.following
        return ids

    def _after_answer(self, last_id: int, turn: list[int]) -> list[int]:
        """`turn` without its leading end token where the answer already ends with one."""
        stops = self.stop_token_ids()
        if last_id in stops:
            for i, token_id in enumerate(turn[:_END_OF_TURN_WITHIN]):
                if token_id in stops:
                    return turn[i + 1 :]
        return turn

    def _find_end_of_turn(self) -> int | None:
        control = set(self.encoder.control.values())
        opening = self.encoder.following(self.pieces.next_user)[:_END_OF_TURN_WITHIN]
        return next((token_id for token_id in opening if token_id in control), None)

    def _content(self, message: Message) -> str:
        start, end = self.pieces.trims
        content = message.content.lstrip() if start else message.content
        return content.rstrip() if end else content
