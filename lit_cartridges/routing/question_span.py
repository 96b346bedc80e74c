"""Where the last question of a chat stands among its token ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user

_PROBES = (
    "a",
    "1",
    "<",
    "\n",
)  # texts that have no token in common; some tokenizers know none of the first three


def shared_ends(
    render: Callable[[Sequence[Message]], list[int]], probes: Sequence[str] = _PROBES
) -> tuple[list[int], list[int]]:
    """The tokens before a first message, and those behind it, whatever its text is."""
    rendered = [render([user(text)]) for text in probes]
    opening = _common(rendered)
    return opening, _common([ids[len(opening) :][::-1] for ids in rendered])[::-1]


class QuestionSpan:
    """Of chats from their beginning (`ChatRenderer.bare_prompt_ids`)."""

    def __init__(self, renderer: ChatRenderer) -> None:
        # White space is no part of the question, and may melt into the template's own: not asked about here where the
        # tokenizer tells the other texts apart.
        distinct = len({tuple(renderer.bare_prompt_ids([user(text)])) for text in _PROBES[:-1]}) > 1
        probes = _PROBES[:-1] if distinct else _PROBES
        self.opening, self.closing = shared_ends(renderer.bare_prompt_ids, probes)
        answer = Message("assistant", "a", np.asarray(renderer.stop_token_ids()[:1], dtype=np.int32))
        before = len(renderer.bare_prompt_ids([user("a")])) + len(answer.token_ids)
        turns = [renderer.bare_prompt_ids([user("a"), answer, user(text)]) for text in probes]
        self.between = _common(turns)[before:]

    def is_chat(self, ids: Sequence[int]) -> bool:
        """Whether the ids are a chat from its beginning to where an answer begins."""
        ends = len(self.opening) + len(self.closing) < len(ids)
        return ends and self._has(ids, 0, self.opening) and self._has(ids, -len(self.closing), self.closing)

    def of(self, ids: Sequence[int]) -> slice:
        """The last question; at least one token."""
        stop = max(1, len(ids) - len(self.closing))
        places = range(stop - len(self.between), len(self.opening), -1) if self.between else ()
        found = (at + len(self.between) for at in places if self._has(ids, at, self.between))
        return slice(min(next(found, len(self.opening)), stop - 1), stop)

    @staticmethod
    def _has(ids: Sequence[int], at: int, part: Sequence[int]) -> bool:
        at %= len(ids)
        return not part or list(ids[at : at + len(part)]) == list(part)


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    return list(os.path.commonprefix([list(row) for row in rows]))
