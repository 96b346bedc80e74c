"""Truncated ICL: as much of the corpus as the context holds."""

from __future__ import annotations

from transformers import PreTrainedModel

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.systems.kind import AskedKind, SystemInput
from lit_cartridges.evals.systems.system import ContextTooLong, System, TokenIds, context_limit, prefilled

TRUNCATED_ICL = "truncated_icl"


def truncated_icl(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    corpus_ids: TokenIds,
    *,
    reserve_tokens: int,
    max_context_tokens: int | None = None,
    name: str = TRUNCATED_ICL,
) -> System:
    """The first tokens of the corpus, as many as fit (arguments as in `icl`); the whole of it where it fits.

    Raises:
        ContextTooLong: not one token of the corpus fits.
    """
    ids, limit = renderer.context_ids(corpus_ids), context_limit(model.config, max_context_tokens)
    kept = len(ids) if limit is None else min(len(ids), limit - reserve_tokens)
    if kept <= len(ids) - len(corpus_ids):
        raise ContextTooLong(
            f"{name}: a question with its answer takes up to {reserve_tokens} tokens, which leaves no place for the "
            f"corpus in a context of {limit}; lower max_new_tokens, or raise max_context_tokens"
        )
    return prefilled(model, ids[:kept], name)


class TruncatedICL(AskedKind):
    """See `truncated_icl`."""

    name = TRUNCATED_ICL

    def read(self, given: SystemInput) -> System:
        """See `AskedKind.read`."""
        return truncated_icl(**given.context)
