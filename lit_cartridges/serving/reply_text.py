"""A reply's text while its tokens come, in pieces that stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what the first bytes of a character are decoded to
_OPENS, _CLOSES = ("<think>", "[THINK]"), ("</think>", "[/THINK]")


class ReplyText:
    """Decodes token by token. What it has given out is a beginning of what `whole` gives in the end.

    Held back are the first bytes of a character, what may be the beginning of a stop text, and in a chat white space, which
    counts only in front of what follows it, and a thought, which ends with a token of its own.

    Args:
        whole: the text of all tokens (`ChatRenderer.text` of a chat).
        control: ids of the tokenizer's control tokens by name.
        stops: texts that end the reply, and are no part of it.
        chat: without white space around it, and without a thought.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        whole: Callable[[Sequence[int]], str],
        stops: Sequence[str],
        chat: bool,
        control: Mapping[str, int],
    ) -> None:
        self.tokenizer, self.whole, self.stops, self.chat = tokenizer, whole, tuple(stops), chat
        self.ids: list[int] = []
        self.stopped = False
        self._opens, self._closes = (
            {control[name] for name in names if chat and name in control} for names in (_OPENS, _CLOSES)
        )
        self._thinking = False
        self._text, self._sent = "", 0
        self._start = self._read = (
            0  # ids from _start on are decoded together; those before _read stand in _text
        )
        self._from = 0  # ids before it are a thought
        # Where decoding takes blanks away in front of what follows, only the whole is decoded as it is in the end.
        self._steady = not getattr(tokenizer, "clean_up_tokenization_spaces", False)

    def add(self, token_id: int) -> str:
        """What can be given out now that this token has come."""
        if self.stopped:
            return ""
        self.ids.append(token_id)
        if token_id in self._opens and not self._text.strip():
            self._thinking = True
        elif token_id in self._closes and not self._sent:
            self._thinking, self._text = False, ""
            self._start = self._read = self._from = len(self.ids)
        elif not self._thinking:
            self._decode()
        return self._given(self._safe())

    def end(self) -> str | None:
        """The rest; None where what was given out is not how the reply begins, which a thought in its middle can do."""
        final = self.final
        return final[self._sent :] if final.startswith(self._text[: self._sent]) else None

    @property
    def final(self) -> str:
        """The whole reply, once its last token has come."""
        if self.stopped:
            return self._text.rstrip() if self.chat else self._text
        text = self.whole(self.ids)
        if self.stops and (found := [at for stop in self.stops if (at := text.find(stop)) >= 0]):
            text = text[: min(found)]
            text = text.rstrip() if self.chat else text
        return text

    def _decode(self) -> None:
        before = self._decoded(self._start, self._read)
        now = self._decoded(self._start, len(self.ids))
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return
        searched = max(0, len(self._text) - max((len(stop) for stop in self.stops), default=0))
        self._text += now[len(before) :]
        if self.chat and not self._sent:
            self._text = self._text.lstrip()
        if self._steady:
            self._start = self._read
        self._read = len(self.ids)
        found = [at for stop in self.stops if (at := self._text.find(stop, searched)) >= 0]
        if found:
            self.stopped, self._text = True, self._text[: min(found)]

    def _safe(self) -> int:
        """How many characters of the text stay as they are."""
        if self.stopped:
            return len(self._text)
        end = len(self._text)
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(self._text)), 0, -1):
                if self._text.endswith(stop[:length]):
                    end = min(end, len(self._text) - length)
                    break
        return len(self._text[:end].rstrip()) if self.chat else end

    def _given(self, end: int) -> str:
        if self.chat and self.stopped:
            end = len(self._text.rstrip())
        piece, self._sent = self._text[self._sent : end], max(self._sent, end)
        return piece

    def _decoded(self, start: int, stop: int) -> str:
        return (
            str(self.tokenizer.decode(self.ids[start:stop], skip_special_tokens=True)) if stop > start else ""
        )
