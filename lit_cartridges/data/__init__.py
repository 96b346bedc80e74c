"""From conversations to packed batches: sources, the stream, packing, and the data module."""

from lit_cartridges.conversations.student import Student
from lit_cartridges.data.batch import PackedBatch, packed
from lit_cartridges.data.data_module import SelfStudyDataModule
from lit_cartridges.data.sources import RawCorpus, Recorded, SelfStudy
from lit_cartridges.data.sources.example import Example
from lit_cartridges.data.stream import ExampleStream, StreamState

__all__ = [
    "Example",
    "ExampleStream",
    "PackedBatch",
    "RawCorpus",
    "Recorded",
    "SelfStudy",
    "SelfStudyDataModule",
    "StreamState",
    "Student",
    "packed",
]
