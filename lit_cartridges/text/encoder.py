"""The one place where chats and texts become token ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from lit_cartridges.errors import CartridgesError
from lit_cartridges.text.control_tokens import control_tokens, is_mistral_common
from lit_cartridges.text.twins import FastTwin, NoTwin, SlowTwin

# Something for a text to follow: tokenizers of the SentencePiece family put a blank in front of what follows nothing.
_ANCHORS = (".", "a", "1")


class TextError(CartridgesError, ValueError):
    """A text whose names of special tokens cannot be kept text."""


class Markup(str):
    """What a chat template wrote: the names of special tokens in it are the tokens."""

    __slots__ = ()


class TextEncoder:
    """Token ids of a chat's pieces: `Markup` from the template, plain `str` from anybody else.

    The pieces are encoded as one text, so that tokens may reach over the seams between them, as they do in the ids of
    `apply_chat_template`. Where a plain piece holds the name of a control token, a twin of the tokenizer encodes the
    text, to which only the names in the markup are tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.control = control_tokens(tokenizer)
        longest_first = sorted(self.control, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Any word that a vocabulary lacks becomes the unknown token, and is no sign of a name.
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._watched = set(self.control.values()) - {self._unknown}
        self._spells_names = is_mistral_common(tokenizer)
        self._written = lru_cache(maxsize=64)(self._count_written)

    def ids(self, *pieces: str) -> list[int]:
        """Token ids of the pieces from a text's very start, without special tokens around them.

        Raises:
            TextError: a name that this tokenizer makes a token of in any text.
        """
        joined = list(_joined(pieces))
        if self._spells_names:
            return self._between_names(joined)
        ids = self._own("".join(joined))
        if not self._holds_names(joined) and self._only_written(ids, joined):
            return ids
        try:
            text = "".join(self._renamed(p) if isinstance(p, Markup) else p for p in joined)
            ids = self._twin.ids(text)
        except NoTwin as error:
            raise TextError(f"{self._found(joined)}: {error}") from error
        if not self._only_written(ids, joined):
            raise TextError(
                f"{self._found(joined)}, which {type(self.tokenizer).__name__} makes a special token wherever it "
                "stands; take it out of the text, or use a model with another tokenizer"
            )
        return ids

    def following(self, *pieces: str) -> list[int]:
        """Token ids of the pieces behind some other text, which is not known here: no blank is put in front."""
        first = next((piece for piece in pieces if piece), "")
        if isinstance(first, Markup) and self._names.match(first):
            return self.ids(*pieces)
        for anchor in _ANCHORS:
            before, both = self.ids(anchor), self.ids(anchor, *pieces)
            if before and self._unknown not in before and both[: len(before)] == before:
                return both[len(before) :]
        return self.ids(*pieces)

    def names_in(self, text: str) -> list[str]:
        """The names of control tokens in ``text``, in their order."""
        return self._names.findall(text)

    def _own(self, text: str) -> list[int]:
        # verbose=False: a corpus longer than the model's context is the point, not worth the tokenizer's warning.
        options = {} if self._spells_names else {"split_special_tokens": False}
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False, **options)
        return [int(i) for i in encoded["input_ids"]] if text else []

    @cached_property
    def _twin(self) -> FastTwin | SlowTwin:
        kind = FastTwin if getattr(self.tokenizer, "is_fast", False) else SlowTwin
        return kind(self.tokenizer, self.control)

    def _renamed(self, markup: str) -> str:
        return self._names.sub(lambda match: self._twin.stand_ins[match.group()], markup)

    def _holds_names(self, pieces: Sequence[str]) -> bool:
        """Whether a name stands anywhere but inside one piece of markup."""
        within = sum(len(self._names.findall(piece)) for piece in pieces if isinstance(piece, Markup))
        return len(self._names.findall("".join(pieces))) != within

    def _only_written(self, ids: Iterable[int], pieces: Sequence[str]) -> bool:
        """Whether the control tokens among ``ids`` are those of the markup."""
        written: Counter[int] = Counter()
        for piece in pieces:
            if isinstance(piece, Markup):
                written.update(self._written(piece))
        return self._counted(ids) == written

    def _count_written(self, markup: str) -> Counter[int]:
        return self._counted(self._own(markup))

    def _counted(self, ids: Iterable[int]) -> Counter[int]:
        return Counter(i for i in ids if i in self._watched)

    def _found(self, pieces: Sequence[str]) -> str:
        names = {
            m.group()
            for piece in pieces
            if not isinstance(piece, Markup)
            for m in self._names.finditer(piece)
        }
        return f"a text holds {' and '.join(sorted(names)) or 'the name of a special token'}"

    def _between_names(self, pieces: Sequence[str]) -> list[int]:
        """For a tokenizer to which all text is text: it encodes what stands between the markup's names."""
        ids: list[int] = []
        text = ""
        for piece in pieces:
            if not isinstance(piece, Markup):
                text += piece
                continue
            start = 0
            for match in self._names.finditer(piece):
                ids += self._own(text + piece[start : match.start()])
                ids.append(self.control[match.group()])
                text, start = "", match.end()
            text += piece[start:]
        return ids + self._own(text)


def encoder_of(tokenizer: Any) -> TextEncoder:
    """The tokenizer's encoder, which is made once, and anew after tokens were added."""
    known = (
        len(tokenizer),
        tuple(tokenizer.all_special_tokens),
        str(getattr(tokenizer, "chat_template", None)),
    )
    return _encoder(tokenizer, known)


# As many as a run has tokenizers: an encoder keeps its tokenizer, and a twin of a large vocabulary, in memory.
@lru_cache(maxsize=2)
def _encoder(tokenizer: Any, _known: Any) -> TextEncoder:
    return TextEncoder(tokenizer)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text: nothing put around it, and what looks like a special token stays text."""
    return encoder_of(tokenizer).ids(text)


def _joined(pieces: Iterable[str]) -> Iterable[str]:
    """The pieces with neighbours of one kind put together, since a name may reach over their seam."""
    held: list[str] = []
    for piece in [p for p in pieces if p]:
        if held and isinstance(held[-1], Markup) == isinstance(piece, Markup):
            held[-1] = type(held[-1])(held[-1] + piece)
        else:
            held.append(piece)
    return held
