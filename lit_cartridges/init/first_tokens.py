"""Start from the corpus itself: the keys and values of its first tokens."""

from __future__ import annotations

from lit_cartridges.init.init_strategy import InitContext
from lit_cartridges.init.token_strategy import TokenStrategy, repeated


class FirstTokens(TokenStrategy):
    """Prefill of the first tokens of the corpus: the paper's choice (arXiv 2506.06266, §3.3).

    A corpus shorter than the cartridge is read again from its start, without a second opening.
    """

    def body_ids(self, context: InitContext, num_tokens: int) -> list[int]:
        """See `TokenStrategy.body_ids`."""
        return repeated(context.corpus_ids, num_tokens, of="the corpus")
