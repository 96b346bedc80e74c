"""What a chat template puts around the messages, found by rendering it with stand-ins for the contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_cartridges.conversations.chat_rendering import rendered_chat
from lit_cartridges.errors import CartridgesError
from lit_cartridges.text import Markup, TextEncoder
from lit_cartridges.text.control_tokens import has_chat_template, is_mistral_common

# Nothing a template would trim, split or escape.
_CHUNK, _USER, _ANSWER, _NEXT_USER = (f"XqStandIn{name}Qx" for name in ("Chunk", "User", "Answer", "Next"))


class RendererError(CartridgesError, ValueError):
    """A chat template or system template that cannot be used."""


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """What stands around the contents. `Markup` is the template's, plain `str` the user's.

    Attributes:
        head: before the chunk.
        user_open: from the chunk to the first user message.
        bare_open: the same without any system message, from the very start.
        answer_open: from a user message to the answer (the generation prompt).
        answer_lead: white space that the template then puts in front of an answer, and the model writes itself.
        next_user: from an answer to the next user message, end of turn included.
        trims: whether the template strips white space off a message's start, and off its end.
    """

    head: tuple[str, ...]
    user_open: tuple[str, ...]
    bare_open: Markup
    answer_open: Markup
    answer_lead: str
    next_user: Markup
    trims: tuple[bool, bool]


def chat_pieces(encoder: TextEncoder, *, system_template: str, options: Mapping[str, Any]) -> ChatPieces:
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
    before, after = system_template.split("{chunk}")
    tokenizer = encoder.tokenizer
    if not has_chat_template(tokenizer):
        return _plain_pieces(tokenizer, before, after)

    def render(*contents: str, system: str | None = None) -> str:
        return rendered_chat(encoder, contents, system=system, options=options)

    # What goes wrong in a template is the template's own choice of exception, hence the broad except.
    try:
        bare = _split(render(_USER), _USER)
        followed = _split(render(_USER, _ANSWER, _NEXT_USER), _USER, _ANSWER, _NEXT_USER)
        trims = (render(f" {_USER}") == render(_USER), render(f"{_USER} ") == render(_USER))
    except Exception as error:
        raise RendererError(
            f"the tokenizer's chat template cannot render user and assistant messages: {error}"
        ) from error

    def around(system: str) -> list[str]:
        try:
            return _split(render(_USER, system=system), _CHUNK, _USER)
        except Exception:
            return _split(render(f"{system}\n\n{_USER}"), _CHUNK, _USER)

    head, user_open, answer_open = around(_CHUNK)
    head_pieces: tuple[str, ...] = (Markup(head), before)
    open_pieces: tuple[str, ...] = (after, Markup(user_open))
    if not is_mistral_common(tokenizer):  # which takes the system text as it is
        whole = around(f"{before}{_CHUNK}{after}")
        head_pieces = _parted(encoder, whole[0], head, from_start=True)
        open_pieces = _parted(encoder, whole[1], user_open, from_start=False)
        answer_open = whole[2]
    lead = followed[1].removeprefix(answer_open)
    return ChatPieces(
        head_pieces,
        open_pieces,
        Markup(bare[0]),
        Markup(answer_open),
        lead if lead.isspace() and followed[1].startswith(answer_open) else "",
        Markup(followed[2]),
        trims,
    )


def _plain_pieces(tokenizer: Any, before: str, after: str) -> ChatPieces:
    start = Markup(getattr(tokenizer, "bos_token", None) or "")
    answer_open, next_user = Markup("\nAssistant:"), Markup("\n\nUser: ")
    opening = Markup(f"{start}User: ")
    return ChatPieces(
        (start, before), (after, next_user), opening, answer_open, " ", next_user, trims=(False, False)
    )


def _parted(encoder: TextEncoder, piece: str, template: str, *, from_start: bool) -> tuple[str, ...]:
    """``piece`` as the template's part of it, which is known from another rendering, and the system template's."""
    cut = len(template) if from_start else len(piece) - len(template)
    ends = (piece[:cut], piece[cut:])
    if ends[0 if from_start else 1] == template:
        return (Markup(ends[0]), ends[1]) if from_start else (ends[0], Markup(ends[1]))
    # The template looked into the system text (some switch thinking on by a word in it). That does not matter where
    # the only special tokens are the template's.
    foreign = Counter(encoder.names_in(piece)) - Counter(encoder.names_in(template))
    if not foreign:
        return (Markup(piece),)
    raise RendererError(
        "the chat template rewrites the system message, so the names of special tokens in system_template cannot be "
        f"told from its own; take {' and '.join(sorted(foreign))} out of system_template"
    )


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
