"""MTOB (arXiv 2309.16575): translating with a grammar book of Kalamang. The user brings its unpacked files.

A folder with ``grammar_book.tex``, ``grammar_book.txt`` or ``grammar_book_for_claude_{medium,long}.txt``,
``train_examples.json`` and ``test_examples_{ke,ek}.json``: lists of {original, ground_truth}, whose first entry is no sentence
and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.evals.tasks.translation import Direction, Translation, pairs_text
from lit_cartridges.files.content import is_text
from lit_cartridges.settings import ReadFolder, checked

BOOKS = {
    "latex": "grammar_book.tex",
    "text": "grammar_book.txt",
    "medium": "grammar_book_for_claude_medium.txt",
    "long": "grammar_book_for_claude_long.txt",
}
Book = Literal["latex", "text", "medium", "long"]


class Mtob(Translation):
    """Its 50 test sentences of one direction.

    Args:
        path: the folder.
        direction: "ke" from Kalamang to English, "ek" back.
    """

    @checked
    def __init__(self, *, path: ReadFolder, direction: Direction = "ke") -> None:
        super().__init__(direction)
        self._pairs = read_pairs(path / f"test_examples_{direction}.json")

    def pairs(self) -> Sequence[tuple[str, str]]:
        """See `Translation.pairs`."""
        return self._pairs


class MtobCorpus(Corpus):
    """The grammar book, and behind it the training sentences.

    Args:
        path: the folder.
        book: which of the books: the "latex" source, plain "text", or the "medium" or "long" parts of it.
        sentences: whether the sentences are in it.
    """

    @checked
    def __init__(self, *, path: str | Path, book: Book = "latex", sentences: bool = True) -> None:
        super().__init__(path)
        self.book, self.sentences = book, sentences
        if not (self.path / BOOKS[book]).is_file():
            raise EvalError(f"book={book!r}: {self.path} holds no {BOOKS[book]}")

    def documents(self) -> Iterator[Document]:
        yield Document(BOOKS[self.book], self._read(self.path / BOOKS[self.book], "utf-8"))
        if self.sentences:
            yield Document("sentences", pairs_text(read_pairs(self.path / "train_examples.json")))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(original, ground_truth) of all entries but the first.

    Raises:
        EvalError: the file is missing, or of another layout; it names the record.
    """
    pairs = []
    for where, record in read_records(path)[1:]:
        told = [
            record.get(name) if isinstance(record, dict) else None for name in ("original", "ground_truth")
        ]
        if not all(is_text(text) and str(text).strip() for text in told):
            raise EvalError(
                f"path={str(path)!r}: {where} has no texts original and ground_truth: not MTOB's layout"
            )
        pairs.append((str(told[0]), str(told[1])))
    if not pairs:
        raise EvalError(f"path={str(path)!r} holds no sentences behind its first entry")
    return pairs
