"""Corpora and their readers, and the choice of a reader by file name."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.corpora.folder_corpus import FolderCorpus
from lit_cartridges.corpora.json_corpus import JsonCorpus
from lit_cartridges.corpora.text_corpora import MarkdownCorpus, TextCorpus
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
    """The reader that fits the name: a folder, .json and .jsonl (their `field`), .md; for all else one document.

    A reader is given back as it is.
    `docs/corpora.md` says what is read of which kind of file.
    """
    if isinstance(path, Corpus):
        return path
    path = at_home(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return FolderCorpus(path=path, encoding=encoding)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return JsonCorpus(path=path, field=field, encoding=encoding)
    if suffix in (".md", ".markdown"):
        return MarkdownCorpus(path=path, encoding=encoding)
    return TextCorpus(path=path, encoding=encoding)
