"""Recorded conversations as training examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lit_cartridges.conversations.conversation import ConversationError
from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.parquet import conversation_files
from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.conversations.student import Student
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.data.sources.example_source import (
    ConversationExamples,
    ExampleSource,
    conversation_examples,
)
from lit_cartridges.data.sources.source import Source
from lit_cartridges.errors import called
from lit_cartridges.runs.run_settings import constructed, files_identity
from lit_cartridges.settings import NonNegativeInt, ReadPath, checked


class Recorded(Source):
    """A recording; nothing is generated.

    Args:
        path: a .parquet file or a folder of them, as ``synthesize`` and a run's ``recording`` folder hold; or PEFT's .jsonl.
        top_k: log-probabilities of it to use per answer token.
    """

    keeps_back = False

    @checked
    def __init__(self, *, path: ReadPath, top_k: NonNegativeInt = 20) -> None:
        self.path, self.top_k = path, top_k

    def connect(self, student: Student, material: Material) -> None:
        """See `Source`; the recording is read here, so that a bad file fails before the model is loaded."""
        super().connect(student, material)
        self._examples = recorded_examples("source.path", self.path, student, material, top_k=self.top_k)

    def examples(self, *, seed: int, root: Path | None = None) -> ExampleSource:
        """See `Source`; the recording decides, not the seed."""
        return self._examples

    def conversations(self, count: int, *, seed: int, progress: bool = False) -> list[list[int]]:
        """Some of the recording's, drawn by the seed; those off the corpus are left out."""
        recorded: Any = self._examples.source
        about = [c for group in recorded.groups for c in group if c.type != "off_corpus"]
        drawn = np.random.default_rng(seed).permutation(len(about))[:count]
        return [self.material.renderer.conversation_ids(about[i].messages)[0].tolist() for i in drawn]

    def run_settings(self) -> dict[str, Any]:
        """See `Source`: the files are known by their content."""
        files = conversation_files(Path(self.path))
        return constructed(self, "data.source", path=files_identity(files, str(self.path)))


def recorded_examples(
    setting: str, path: str | Path, student: Student, material: Material, *, top_k: int
) -> ConversationExamples:
    """The recording that ``setting`` names, read.

    Raises:
        RecordingError: it cannot be read, or is of another tokenizer.
    """
    with called(setting, path):
        recorded = RecordedConversations(path, tokenizer=student.tokenizer, vocab_size=student.vocab_size)
    try:
        recorded.groups  # noqa: B018
    except (RecordingError, ConversationError) as error:
        raise RecordingError(f"{setting}={str(path)!r}: {error}") from error
    return conversation_examples(recorded, student, material, top_k=top_k)
