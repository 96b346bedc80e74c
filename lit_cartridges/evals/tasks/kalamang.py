"""Kalamang, our split: the grammar book of a language that few texts are in, and sentences of its dictionary.

The user brings both, each CC BY 4.0: the LaTeX chapters of E. Visser's «A grammar of Kalamang» (github.com/langsci/344, folder
``chapters``) and ``examples.csv`` of the «Kalamang dictionary» (github.com/dictionaria/kalamang, folder ``cldf``). By title and
length the book is that of MTOB (arXiv 2309.16575); the sentences that are asked are not MTOB's: nor is any figure.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.evals.tasks.translation import Direction, Translation, pairs_text
from lit_cartridges.files.content import one_line
from lit_cartridges.settings import NonNegativeInt, PositiveInt, ReadFile, ReadFolder, checked

Pair = tuple[str, str]
_TEST, _TRAIN = 50, 375
_COLUMNS = ("ID", "Primary_Text", "Translated_Text", "alt_translation1")
# Whose translation is Malay; of the last the English one stands beside it.
_MALAY = ("XV001060", "XV001118", "XV001235", "XV001580", "XV001584")
_SWAPPED = "XV000001"


class Kalamang(Translation):
    """50 sentences, to be translated into the other language.

    Args:
        grammar: folder with the book's chapters (.tex); sentences that stand there are not asked.
        examples: ``examples.csv`` of the dictionary.
        direction: "ke" from Kalamang to English, "ek" back; each has sentences of its own.
    """

    @checked
    def __init__(self, *, grammar: ReadFolder, examples: ReadFile, direction: Direction = "ke") -> None:
        super().__init__(direction)
        self._pairs = split(grammar, examples)[direction]

    def pairs(self) -> Sequence[Pair]:
        """See `Translation.pairs`."""
        return self._pairs


class KalamangCorpus(Corpus):
    """The book, chapter by chapter in the order of their files' names, and behind it sentences that are not asked.

    Args:
        path: folder with the chapters; ``examples`` as for `Kalamang`.
        chapters: names of files; all by default.
        max_characters: of the book, which is cut there.
        sentences: how many pairs, at most 375.
    """

    @checked
    def __init__(
        self,
        *,
        path: str | Path,
        examples: ReadFile,
        chapters: Sequence[str] | None = None,
        max_characters: PositiveInt | None = None,
        sentences: NonNegativeInt = _TRAIN,
    ) -> None:
        super().__init__(path)
        self.examples, self.max_characters, self.sentences = Path(examples), max_characters, sentences
        known = {file.name: file for file in chapter_files(self.path, "path")}
        if unknown := [name for name in chapters or () if name not in known]:
            raise EvalError(f"chapters={unknown} are not in {self.path}; it has {one_line(', '.join(known))}")
        self._files = [file for name, file in known.items() if chapters is None or name in chapters]

    def documents(self) -> Iterator[Document]:
        left = self.max_characters
        for file in self._files:
            text = self._read(file, "utf-8")[:left]
            left = None if left is None else left - len(text)
            yield Document(file.name, text)
        yield Document("sentences", pairs_text(self._pairs[: self.sentences]))

    @cached_property
    def _pairs(self) -> list[Pair]:
        return split(self.path, self.examples)["train"]


def chapter_files(folder: str | Path, setting: str) -> list[Path]:
    """The book's chapters, by name; ``setting`` is the folder's name in an error.

    Raises:
        EvalError: the folder has none.
    """
    files = sorted(Path(folder).glob("*.tex"), key=lambda file: file.name)
    if not files:
        raise EvalError(
            f"{setting}={str(folder)!r} holds no .tex file; give the folder chapters of github.com/langsci/344"
        )
    return files


def split(grammar: str | Path, examples: str | Path) -> dict[str, list[Pair]]:
    """Pairs (source, translation) of "ke" and "ek", 50 each and asked, and (Kalamang, English) of "train", 375.

    Sentences of 4 to 14 words with an English translation, without brackets and not in the book, in the order of a digest of
    their ids.

    Raises:
        EvalError: a file is missing, of another layout, or has too few of them.
    """
    rows = _rows(Path(examples))
    try:
        book = _letters(
            "".join(file.read_text(encoding="utf-8") for file in chapter_files(grammar, "grammar"))
        )
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"grammar={str(grammar)!r} cannot be read: {one_line(error)}") from error
    eligible = [
        (kalamang, english)
        for name, kalamang, english in sorted(rows, key=lambda row: _digest(row[0]))
        if name not in _MALAY
        and 4 <= len(kalamang.split()) <= 14
        and english
        and "[" not in kalamang
        and _letters(kalamang) not in book
    ]
    if len(eligible) <= 2 * _TEST:
        raise EvalError(
            f"examples={str(examples)!r} has {len(eligible)} sentences that may be asked, and more than {2 * _TEST} are needed"
        )
    return {
        "ke": eligible[:_TEST],
        "ek": [(english, kalamang) for kalamang, english in eligible[_TEST : 2 * _TEST]],
        "train": eligible[2 * _TEST : 2 * _TEST + _TRAIN],
    }


def _rows(path: Path) -> list[tuple[str, str, str]]:
    """Id, Kalamang and English of all sentences."""
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        if missing := [name for name in _COLUMNS if name not in (table.fieldnames or ())]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return [
            (
                row["ID"] or "",
                row["Primary_Text"] or "",
                row["alt_translation1" if row["ID"] == _SWAPPED else "Translated_Text"] or "",
            )
            for row in table
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise EvalError(
            f"examples={str(path)!r} is no examples.csv of the dictionary: {one_line(error)}"
        ) from error


def _digest(name: str) -> str:
    return hashlib.sha256(f"lit-cartridges:{name}".encode()).hexdigest()


def _letters(text: str) -> str:
    """Lower case a to z alone, without LaTeX's commands."""
    return re.sub(r"[^a-z]", "", re.sub(r"\\[a-zA-Z]+", "", text).lower())
