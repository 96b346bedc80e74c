"""The corpus itself as training text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lit_cartridges.data.sources.example_source import CorpusExamples, ExampleSource
from lit_cartridges.data.sources.proportions import tell_long_windows
from lit_cartridges.data.sources.source import Source
from lit_cartridges.settings import Range, checked


class RawCorpus(Source):
    """Windows of the corpus, every token a target: with the NextToken objective the paper's naive baseline
    (arXiv 2506.06266, §4).

    Args:
        window_tokens: tokens of a window, or the whole corpus where that is shorter.
    """

    @checked
    def __init__(self, *, window_tokens: Annotated[int, Range(least=2, most=2**31 - 1)] = 512) -> None:
        self.window_tokens = window_tokens

    def tell_proportions(self, corpus_tokens: int) -> None:
        """See `Source`."""
        tell_long_windows(self.window_tokens, corpus_tokens=corpus_tokens)

    def examples(self, *, seed: int, root: Path | None = None) -> ExampleSource:
        """See `Source`; nothing is kept, since nothing is made."""
        return CorpusExamples(self.material.corpus_ids, window_tokens=self.window_tokens, seed=seed)
