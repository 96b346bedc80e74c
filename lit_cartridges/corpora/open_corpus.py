"""The choice of a corpus reader by file name."""

from __future__ import annotations

from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.corpora.folder_corpus import FolderCorpus
from lit_cartridges.corpora.hub_dataset import HubDataset
from lit_cartridges.corpora.json_corpus import JsonCorpus
from lit_cartridges.corpora.parquet_corpus import ParquetCorpus, hidden
from lit_cartridges.corpora.text_corpora import MarkdownCorpus, TextCorpus
from lit_cartridges.found_classes import found_classes
from lit_cartridges.settings import at_home, on_hub

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
    """The reader that fits the name: `HubDataset` for ``hf://datasets/…``, a folder's, or the one with such `suffixes`.

    A reader is given back as it is. `field` (the column of a table) and `encoding` go to readers that have these settings;
    docs/corpora.md says what is read.
    """
    if isinstance(path, Corpus):
        return path
    if on_hub(path):
        return HubDataset.at(str(path), column=field)
    path = at_home(path)
    if path.is_dir() and _all_parquet(path):
        return ParquetCorpus(path=path, column=field)
    if path.is_dir():
        return FolderCorpus(path=path, encoding=encoding)
    reader: Any = _readers().get(path.suffix.lower(), TextCorpus)
    known = signature(reader).parameters
    options = {"field": field, "column": field, "encoding": encoding}
    return reader(path=path, **{name: value for name, value in options.items() if name in known})


def _all_parquet(folder: Path) -> bool:
    """Whether the folder holds Parquet files, and but for hidden ones no others."""
    shown = (file.suffix.lower() for file in folder.rglob("*") if file.is_file() and not hidden(file, folder))
    first = next(shown, None)
    return first == ".parquet" and all(suffix == first for suffix in shown)


@cache
def _readers() -> dict[str, type[Corpus]]:
    readers = found_classes("lit_cartridges.corpora", Corpus).values()
    return {suffix: reader for reader in readers for suffix in reader.suffixes}
