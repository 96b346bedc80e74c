"""A world's corpus as the framework reads corpora, for recipes, tests and the demo."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.world import World
from lit_cartridges.settings import NonNegativeInt, Range, checked

WorldTokens = Annotated[int, Range(least=1, most=10_000_000)]


class WorldCorpus(Corpus):
    """The text of `World(seed, held_out, part).corpus(num_tokens, index)`; `PocketQuestions` asks about the same.

    Args:
        seed: of the world.
        num_tokens: about so many, and never more.
        index: which of the world's texts of that length.
        held_out: facts of a kind that the pocket model never saw in its training.
        part: (i, n): only the i-th of n disjoint shares of the names, so that two corpora share none.
    """

    world_class = World

    @checked
    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        num_tokens: WorldTokens,
        index: NonNegativeInt = 0,
        held_out: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        # The base looks for a file, and a world has none; the path only names the corpus in messages.
        self.path = Path(f"world-{seed}-{index}-{num_tokens}")
        self.num_tokens, self.index = num_tokens, index
        try:
            self.world = self.world_class(seed, held_out=held_out, part=(part[0], part[1]))
            self.pocket_text  # noqa: B018  make it now, so that bad settings fail early
        except ValueError as error:
            raise CorpusError(str(error)) from error

    @cached_property
    def pocket_text(self) -> PocketText:
        """The text with its facts and where it states them."""
        return self.world.corpus(self.num_tokens, self.index)

    def documents(self) -> Iterator[Document]:
        yield Document(self.path.name, self.pocket_text.text)
