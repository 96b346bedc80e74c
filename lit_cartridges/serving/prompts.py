"""What is read behind a cartridge, or without one, as token ids: by the renderer that trained the cartridge.

    behind a cartridge    a chat goes on from the place of its system message; a text goes on from the cartridge
    without one           a chat from its beginning, with the system message that it may have; a text behind the opening token
                          that the tokenizer puts in front of texts

Text is text: the name of a special token in it never becomes the token. Ids are read as they are given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_cartridges.attached import rendered_messages
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError
from lit_cartridges.serving.asked import Asked, ChatAsked
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.reply_text import ReplyText
from lit_cartridges.text import TextError, text_ids


class Prompts:
    """Of one tokenizer. `ids` is called in one thread, and `reply` in another: each has a tokenizer of its own, since one may not
    be used twice at the same time. ``renderer_options`` are those of training (see `ChatRenderer`)."""

    def __init__(self, tokenizer: Any, **renderer_options: Any) -> None:
        self.renderer = ChatRenderer(tokenizer, **renderer_options)
        self._reading = ChatRenderer(copy.deepcopy(tokenizer), **renderer_options)
        opening = tokenizer("")["input_ids"]
        bos = getattr(tokenizer, "bos_token_id", None)
        self._opening = [bos] if bos is not None and bos in opening else []

    def ids(self, asked: Asked, *, behind: bool) -> list[int]:
        """What is read behind a cartridge, or without one.

        Raises:
            Refusal: a chat of another form, or a text that this tokenizer cannot keep text.
        """
        try:
            if isinstance(asked, ChatAsked):
                return self._chat_ids(asked.messages, behind=behind)
            prompt = getattr(asked, "prompt", "")
            if isinstance(prompt, list):
                return list(prompt)
            if behind:
                return self.renderer.encoder.following(prompt)
            return [*self._opening, *text_ids(self.renderer.tokenizer, prompt)]
        except (RendererError, TextError) as error:
            param = "messages" if isinstance(asked, ChatAsked) else "prompt"
            raise Refusal(str(error), param=param, code="invalid_value") from error

    def reply(self, asked: Asked) -> ReplyText:
        """The text of one reply to come."""
        chat, tokenizer = isinstance(asked, ChatAsked), self._reading.tokenizer

        def whole(ids: Sequence[int]) -> str:
            if chat:
                return self._reading.text(np.asarray(ids))
            return str(tokenizer.decode(list(ids), skip_special_tokens=True))

        control = self._reading.encoder.control
        return ReplyText(tokenizer, whole=whole, stops=asked.stops, chat=chat, control=control)

    def token_text(self, token_id: int) -> str:
        """One token's text, special or not."""
        return str(self._reading.tokenizer.decode([token_id], skip_special_tokens=False))

    def _chat_ids(self, messages: Sequence[Mapping[str, str]], *, behind: bool) -> list[int]:
        if behind or messages[0]["role"] != "system":
            rendered = rendered_messages(self.renderer, messages)
            return self.renderer.prompt_ids(rendered) if behind else self.renderer.bare_prompt_ids(rendered)
        system, *rest = messages
        context = self.renderer.context_ids(text_ids(self.renderer.tokenizer, system["content"]))
        return context + self.renderer.prompt_ids(rendered_messages(self.renderer, rest))
