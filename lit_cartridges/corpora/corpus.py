"""The corpus: documents to be stored in a cartridge, read from a file or a folder."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray

from lit_cartridges.corpora.encodings import NotText, decoded
from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import is_text, one_line
from lit_cartridges.settings import at_home
from lit_cartridges.terminal import printable_line
from lit_cartridges.text import text_ids

_tell = rank_zero_only(logging.getLogger(__name__).warning)
_MOST_UNKNOWN = 0.01  # of the tokens


class CorpusError(CartridgesError, ValueError):
    """A corpus that cannot be read, or that is empty."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `name` is for people: a file name, a record number or a heading."""

    name: str
    text: str


class Corpus(ABC):
    """Documents at `path`. A subclass writes `documents`; empty ones are dropped by the base.

    Attributes:
        suffixes: ends of file names, in lower case; `open_corpus` gives those files to this reader.

    Raises:
        CorpusError: at construction when there is nothing at `path`, later when it cannot be read or is empty.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    _told_unknown = False

    def __init__(self, path: str | Path) -> None:
        self.path = at_home(path)
        if not self.path.exists():
            raise CorpusError(
                f"path={str(self.path)!r}: no such file or folder; give the place of the corpus"
            )

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, in an order that never changes."""

    @cached_property
    def text(self) -> str:
        """All documents, joined by a blank line.

        Raises:
            CorpusError: there is no text at all.
        """
        documents = [d for d in self.documents() if d.text.strip()]
        text = "\n\n".join(document.text.strip() for document in documents)
        if not is_text(text):
            name = next(d.name for d in documents if not is_text(d.text))
            raise CorpusError(
                f"path={str(self.path)!r}: {one_line(name)} holds text that is no Unicode (half a surrogate pair)"
            )
        if not text:
            raise CorpusError(f"path={str(self.path)!r}: the corpus is empty; {self.empty_hint}")
        return text

    @property
    def shown_name(self) -> str:
        """Of its file or folder, for people; nothing of where that lies."""
        return Path(getattr(self, "path", "")).name

    @property
    def empty_hint(self) -> str:
        """What the user may do about an empty corpus."""
        return "give a file with some text in it"

    @cached_property
    def sha256(self) -> str:
        """Hex digest of `text` in UTF-8; it names the corpus in recordings and cartridges."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def token_ids(self, tokenizer: Any) -> NDArray[np.int32]:
        """int32 [tokens], without special tokens around it; what looks like one in the text stays text.

        Raises:
            CorpusError: the corpus is empty, or comes to no tokens.
        """
        ids = np.asarray(text_ids(tokenizer, self.text), dtype=np.int32)
        if not len(ids):
            raise CorpusError(
                f"path={str(self.path)!r}: the tokenizer makes no token of it; give a text it can read"
            )
        self._tell_unknown(ids, tokenizer)
        return ids

    def _tell_unknown(self, ids: NDArray[np.int32], tokenizer: Any) -> None:
        """Warn, once, of a text that the tokenizer knows badly: what reads as unknown is lost to every model."""
        unknown_id = getattr(tokenizer, "unk_token_id", None)
        unknown = 0 if unknown_id is None else int((ids == unknown_id).sum())
        if unknown <= _MOST_UNKNOWN * len(ids) or self._told_unknown:
            return
        self._told_unknown = True
        _tell(
            "corpus %s: %s of its %s tokens (%s) are %s, which stands for what the tokenizer does not know: no cartridge "
            "can hold that; choose a model whose tokenizer knows the text",
            printable_line(self.path),
            f"{unknown:,}",
            f"{len(ids):,}",
            f"{unknown / len(ids):.1%}",
            tokenizer.unk_token,
        )

    def _read(self, path: Path, encoding: str) -> str:
        with self._refused(path):
            return decoded(path.read_bytes(), encoding)

    @contextmanager
    def _refused(self, path: Path) -> Iterator[None]:
        """Errors of reading a file, with its name."""
        try:
            yield
        except NotText as error:
            raise CorpusError(f"path={str(path)!r}: {error}") from error
        except OSError as error:
            raise CorpusError(
                f"path={str(path)!r}: cannot be read ({error}); give a readable text file"
            ) from error
