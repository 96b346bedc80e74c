"""Replies in OpenAI's forms: whole, and as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_cartridges.serving.job import Token


@dataclass(kw_only=True)
class Choice:
    """One reply so far.

    Args:
        text: what has been given out.
        finish: "stop", "length", or None while it goes on.
    """

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens: of the prompt, those of the cartridge among them; of the cartridge; of the replies."""

    prompt: int
    cartridge: int
    completion: int

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cartridge},
        }


class Answers:
    """Writes the answer to one request.

    Args:
        token_text: the text of a token.
        logprobs: whether they were asked for.
    """

    def __init__(self, model: str, *, chat: bool, logprobs: bool, token_text: Callable[[int], str]) -> None:
        self.chat, self.logprobs, self.token_text = chat, logprobs, token_text
        kind, prefix = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._whole, self._piece = kind, f"{kind}.chunk" if chat else kind

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The answer as one."""
        told = []
        for choice in choices:
            one: dict[str, Any] = {"index": choice.index}
            if self.chat:
                one["message"] = {"role": "assistant", "content": choice.text}
            else:
                one["text"] = choice.text
            told.append(one | {"logprobs": self._noted(choice.tokens, ""), "finish_reason": choice.finish})
        return {**self._head, "object": self._whole, "choices": told, "usage": usage.body}

    def opening(self, index: int) -> bytes:
        """The first event of a chat's reply."""
        return self._event(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def piece(self, choice: Choice, text: str, tokens: Sequence[Token]) -> bytes:
        """More of a reply, or its end."""
        body = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return self._event(choice.index, body, self._noted(tokens, choice.text), choice.finish)

    def usage(self, usage: Usage) -> bytes:
        """The event that counts."""
        return event({**self._head, "object": self._piece, "choices": [], "usage": usage.body})

    def _event(self, index: int, body: dict[str, Any], noted: Any, finish: str | None) -> bytes:
        choice = {"index": index, **body, "logprobs": noted, "finish_reason": finish}
        return event({**self._head, "object": self._piece, "choices": [choice]})

    def _noted(self, tokens: Sequence[Token], before: str) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        noted = [(token.token_id, token.noted) for token in tokens if token.noted is not None]
        if self.chat:
            content = []
            for token_id, one in noted:
                top = [self._entry(other, logprob) for other, logprob in one.top]
                content.append({**self._entry(token_id, one.logprob), "top_logprobs": top})
            return {"content": content}
        texts, offsets, at = [], [], len(before)
        for token_id, _ in noted:
            texts.append(self.token_text(token_id))
            offsets.append(at)
            at += len(texts[-1])
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for _, one in noted],
            "top_logprobs": [{self.token_text(i): x for i, x in one.top} for _, one in noted],
            "text_offset": offsets,
        }

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        # The bytes of a token alone are not always those that it has in a text, so none are told.
        return {"token": self.token_text(token_id), "logprob": max(logprob, -9999.0), "bytes": None}


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
