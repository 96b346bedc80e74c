"""A chat on its way through the harness, which hands prompts on as texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lit_cartridges.attached import rendered_messages
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.text import text_ids


class Chat(str):
    """The messages as JSON. It is turned into token ids by the renderer of training and not by a template's text, in which a
    question's words and special tokens can no longer be told apart."""

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, str]]) -> Chat:
        """The chat of these messages."""
        return cls(json.dumps([dict(message) for message in messages], ensure_ascii=False))

    def prompt(self, renderer: ChatRenderer, *, behind: bool) -> tuple[list[int], str]:
        """The token ids up to where the answer begins, and the answer's own beginning (a task's ``gen_prefix``).

        Args:
            behind: a cartridge stands in the place of the system message.

        Raises:
            SettingError: a system message behind a cartridge.
            EvalError: nobody asks.
        """
        messages = json.loads(self)
        system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
        begun = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else ""
        if not messages:
            raise EvalError("a chat without a question; give the task's doc_to_text one")
        asked = rendered_messages(renderer, messages)
        if behind and system:
            raise SettingError(
                "the cartridge stands in the place of the system message, and the task or --system_instruction brings one; "
                "take it out (a task's description: in its YAML), or leave --apply_chat_template out",
                system_instruction=system,
            )
        if behind:
            return renderer.prompt_ids(asked), begun
        if not system:
            return renderer.bare_prompt_ids(asked), begun
        context = renderer.context_ids(text_ids(renderer.tokenizer, system))
        return context + renderer.prompt_ids(asked), begun
