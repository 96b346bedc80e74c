"""What a chat template puts around the messages, found by rendering it once with stand-ins for the contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_cartridges.errors import CartridgesError

# Nothing a template would trim, split or escape.
_CHUNK, _USER, _ANSWER, _NEXT_USER = (f"XqStandIn{name}Qx" for name in ("Chunk", "User", "Answer", "Next"))


class RendererError(CartridgesError, ValueError):
    """A chat template or system template that cannot be used."""


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """Text around the contents.

    Attributes:
        head: before the chunk.
        user_open: from the chunk to the first user message.
        bare_open: the same without any system message, from the very start.
        answer_open: from a user message to the answer (the generation prompt).
        next_user: from an answer to the next user message, end of turn included.
        trims: whether the template strips white space off the messages.
    """

    head: str
    user_open: str
    bare_open: str
    answer_open: str
    next_user: str
    trims: bool


def chat_pieces(tokenizer: Any, *, system_template: str, options: Mapping[str, Any]) -> ChatPieces:
    """Takes the tokenizer's chat template apart.

    Templates without a system role (they raise, or drop the message) get the system text in front of the first user
    message. Tokenizers without a template get plain "User:" and "Assistant:" lines.

    Raises:
        RendererError: the system template has no single "{chunk}", or the chat template loses or repeats a message.
    """
    if system_template.count("{chunk}") != 1:
        raise RendererError(
            f"system_template={system_template!r} must hold {{chunk}} exactly once, where the chunk stands"
        )
    system_text = system_template.replace("{chunk}", _CHUNK)
    if not getattr(tokenizer, "chat_template", None):
        return _plain_pieces(tokenizer, system_text)

    def render(*contents: str, system: str | None = None) -> str:
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)
        ]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        return str(text)

    # What goes wrong in a template is the template's own choice of exception, hence the broad except.
    try:
        bare = _split(render(_USER), _USER)
        followed = _split(render(_USER, _ANSWER, _NEXT_USER), _USER, _ANSWER, _NEXT_USER)
        trims = f" {_USER} " not in render(f" {_USER} ")
    except Exception as error:
        raise RendererError(
            f"the tokenizer's chat template cannot render user and assistant messages: {error}"
        ) from error
    try:
        head, user_open, answer_open = _split(render(_USER, system=system_text), _CHUNK, _USER)
    except Exception:
        head, user_open, answer_open = _split(render(f"{system_text}\n\n{_USER}"), _CHUNK, _USER)
    return ChatPieces(head, user_open, bare[0], answer_open, followed[2], trims)


def _plain_pieces(tokenizer: Any, system_text: str) -> ChatPieces:
    start = getattr(tokenizer, "bos_token", None) or ""
    head, rest = _split(start + system_text, _CHUNK)
    return ChatPieces(head, f"{rest}\n\nUser: ", f"{start}User: ", "\nAssistant:", "\n\nUser: ", trims=False)


def _split(text: str, *stand_ins: str) -> list[str]:
    """The text between the stand-ins, which must each occur once and in this order."""
    pieces = []
    for stand_in in stand_ins:
        if text.count(stand_in) != 1:
            raise RendererError(
                f"a message appears {text.count(stand_in)} times in the rendered chat, or out of order"
            )
        before, text = text.split(stand_in)
        pieces.append(before)
    return [*pieces, text]
