"""Start from random pieces of the corpus."""

from __future__ import annotations

import torch

from lit_cartridges.init.init_strategy import InitContext
from lit_cartridges.init.token_strategy import TokenStrategy
from lit_cartridges.settings import PositiveInt, checked


class SampledChunks(TokenStrategy):
    """Sampled Chunk Initialization, SCI (arXiv 2508.17032): random chunks of the corpus, concatenated, prefilled at once.

    Chunks do not overlap as long as the corpus is long enough, and every such choice is equally likely; where it is
    not, each chunk lies anywhere. One chunk is shorter where ``chunk_tokens`` does not divide the number of tokens.

    Args:
        chunk_tokens: length of a chunk; the paper's is 64. A shorter corpus is one chunk.
        in_order: keep the chunks in the order of the corpus; by default, as in the paper, they come in random order.
    """

    @checked
    def __init__(self, *, chunk_tokens: PositiveInt = 64, in_order: bool = False) -> None:
        self.chunk_tokens, self.in_order = chunk_tokens, in_order

    def body_ids(self, context: InitContext, num_tokens: int) -> list[int]:
        """See `TokenStrategy.body_ids`."""
        return [
            int(i)
            for start, stop in self.spans(len(context.corpus_ids), num_tokens, seed=context.seed)
            for i in context.corpus_ids[start:stop]
        ]

    def spans(self, corpus_tokens: int, num_tokens: int, *, seed: int) -> list[tuple[int, int]]:
        """First token and the one after the last of every chunk, in the order in which they are laid down.

        Raises:
            ValueError: there is no corpus.
        """
        if corpus_tokens < 1:
            raise ValueError("init=SampledChunks: the corpus has no tokens; give some text")
        longest = min(self.chunk_tokens, corpus_tokens)
        lengths = torch.full((-(-num_tokens // longest),), longest)
        lengths[-1] = num_tokens - longest * (len(lengths) - 1)
        generator = torch.Generator().manual_seed(seed)
        lengths = lengths[torch.randperm(len(lengths), generator=generator)]
        free = corpus_tokens - num_tokens
        if free >= 0:
            # What is left of the corpus falls into the gaps around the chunks: all ways to share it out are equally
            # likely when the chunks, as single items, take random places among the free tokens.
            places = torch.randperm(free + len(lengths), generator=generator)[: len(lengths)].sort().values
            gaps = places - torch.arange(len(lengths))
            starts = gaps + lengths.cumsum(0) - lengths
        else:
            draws = torch.rand(len(lengths), generator=generator, dtype=torch.float64)
            starts = (draws * (corpus_tokens - lengths + 1)).long()
        order = starts.argsort(stable=True)
        if not self.in_order:
            order = order[torch.randperm(len(order), generator=generator)]
        return [(int(starts[i]), int(starts[i] + lengths[i])) for i in order]
