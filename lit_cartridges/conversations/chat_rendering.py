"""Chats as text, by the tokenizer's own template, on a day that never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from lit_cartridges.text import Markup, TextEncoder
from lit_cartridges.text.control_tokens import is_mistral_common

# Llama 3's template writes today's date into the system message unless it is given one, those of Mistral and SmolLM3
# ask the clock. A prompt that changes at midnight would break law 4, so the date stands still.
_TODAY = datetime(2024, 7, 26)
FIXED_DATE: Mapping[str, Any] = {"date_string": "26 Jul 2024"}
_CLOCK = "strftime_now"
_CODES = [*"aAbBcdDeFGgHhIjklmMnpPrRsSTtuUVwWxXyYzZC", "-d", "-m", "-H", "-I", "-j", "-M", "-S"]


def rendered_chat(
    encoder: TextEncoder, contents: Sequence[str], *, system: str | None, options: Mapping[str, Any]
) -> str:
    """The chat's text up to where the next answer begins, for user, assistant, user, … contents.

    Args:
        options: variables of the template, those of `FIXED_DATE` unless they are given here.
    """
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if is_mistral_common(encoder.tokenizer):
        return _mistral_chat(encoder, messages, options)
    tokenizer = encoder.tokenizer
    text = tokenizer.apply_chat_template(
        messages,
        chat_template=_with_fixed_clock(tokenizer.get_chat_template()),
        tokenize=False,
        add_generation_prompt=True,
        **{**FIXED_DATE, **options},
    )
    return str(text)


@lru_cache(maxsize=8)
def _with_fixed_clock(template: str) -> str:
    """The template behind a macro that stands before transformers' clock, which takes no function from outside."""
    if _CLOCK not in template:
        return template
    # A doubled % is a percent sign, whatever follows it.
    replaced = [("%%", "\0"), *(("%" + code, _TODAY.strftime("%" + code)) for code in _CODES), ("\0", "%")]
    codes = "".join(f" | replace({json.dumps(code)}, {json.dumps(value)})" for code, value in replaced)
    # The line break is the one that jinja takes away behind a block.
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{codes} }}}}{{% endmacro %}}\n{template}"


def _mistral_chat(
    encoder: TextEncoder, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]
) -> str:
    """mistral-common gives ids, of which the text is made: names of special tokens, and what stands between them.

    Raises:
        ValueError: the text would not come to the same ids.
    """
    tokenizer = encoder.tokenizer
    known = {index: name for name, index in encoder.control.items()}
    # It knows neither dates nor thinking.
    wanted = {name: value for name, value in options.items() if name != "enable_thinking"}
    ids = [int(i) for i in tokenizer.apply_chat_template(messages, return_dict=False, **wanted)]
    text, run = "", list[int]()
    for token_id in ids:
        if token_id in known:
            text, run = f"{text}{_decoded(tokenizer, run)}{known[token_id]}", []
        else:
            run.append(token_id)
    text += _decoded(tokenizer, run)
    if encoder.ids(Markup(text)) != ids:
        raise ValueError(f"mistral-common's ids are not those of their text {text!r}")
    return text


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""
