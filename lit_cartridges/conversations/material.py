"""What a cartridge is made from: a corpus as its student reads it, and conversations about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from lit_cartridges.conversations.renderer import ChatRenderer


class Conversations(Protocol):
    """A way to ask for a few conversations about the corpus."""

    def __call__(self, count: int, *, seed: int, progress: bool = False) -> list[list[int]]:
        """``count`` of them, decided by ``seed``: each as the token ids that a student reads behind its cartridge."""
        ...


@dataclass(frozen=True, kw_only=True)
class Material:
    """What init strategies, callbacks and baselines take of a run's data.

    Args:
        renderer: the chat template, and with it the tokenizer.
        corpus_ids: [tokens] of the corpus.
        corpus_sha256: of its text.
        corpus_name: of its file or folder, for people.
        conversations: None where the data has none.
    """

    renderer: ChatRenderer
    corpus_ids: NDArray[Any]
    corpus_sha256: str
    corpus_name: str = ""
    conversations: Conversations | None = None
