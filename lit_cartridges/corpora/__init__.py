"""The corpus: documents, read from files and folders, and the chunks they are studied in."""

from lit_cartridges.corpora.chunkers import Chunk, ChunkerError, TokenChunker
from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.corpora.folder_corpus import FolderCorpus
from lit_cartridges.corpora.hub_dataset import HubDataset
from lit_cartridges.corpora.json_corpus import JsonCorpus
from lit_cartridges.corpora.open_corpus import open_corpus
from lit_cartridges.corpora.parquet_corpus import ParquetCorpus
from lit_cartridges.corpora.text_corpora import MarkdownCorpus, TextCorpus
from lit_cartridges.found_classes import found_classes

__all__ = [
    "Chunk",
    "ChunkerError",
    "Corpus",
    "CorpusError",
    "Document",
    "FolderCorpus",
    "HubDataset",
    "JsonCorpus",
    "MarkdownCorpus",
    "ParquetCorpus",
    "TextCorpus",
    "TokenChunker",
    "open_corpus",
]

globals().update(found_classes(__name__, Corpus))  # every reader of this folder, by its name
