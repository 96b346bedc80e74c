"""The choice of a corpus reader by file name."""

from __future__ import annotations

from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.corpora.folder_corpus import FolderCorpus
from lit_cartridges.corpora.json_corpus import JsonCorpus
from lit_cartridges.corpora.text_corpora import MarkdownCorpus, TextCorpus
from lit_cartridges.found_classes import found_classes
from lit_cartridges.settings import at_home

__all__ = [
    "Corpus",
    "CorpusError",
    "Document",
    "FolderCorpus",
    "JsonCorpus",
    "MarkdownCorpus",
    "TextCorpus",
    "open_corpus",
]


def open_corpus(path: str | Path | Corpus, *, field: str = "text", encoding: str = "utf-8") -> Corpus:
    """The reader that fits the name: a folder's, the one that has the end of the name among its `suffixes`, or `TextCorpus`.

    A reader is given back as it is. `field` and `encoding` go to readers that have such settings. `docs/corpora.md` says what
    is read of which kind of file.
    """
    if isinstance(path, Corpus):
        return path
    path = at_home(path)
    if path.is_dir():
        return FolderCorpus(path=path, encoding=encoding)
    reader: Any = _readers().get(path.suffix.lower(), TextCorpus)
    known = signature(reader).parameters
    options = {name: value for name, value in (("field", field), ("encoding", encoding)) if name in known}
    return reader(path=path, **options)


@cache
def _readers() -> dict[str, type[Corpus]]:
    readers = found_classes("lit_cartridges.corpora", Corpus).values()
    return {suffix: reader for reader in readers for suffix in reader.suffixes}
