"""ICL: the whole corpus in the context."""

from __future__ import annotations

from transformers import PreTrainedModel

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.systems.kind import AskedKind, SystemInput
from lit_cartridges.evals.systems.system import ContextTooLong, System, TokenIds, context_limit, prefilled

ICL = "icl"


def icl(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    corpus_ids: TokenIds,
    *,
    reserve_tokens: int = 0,
    max_context_tokens: int | None = None,
    name: str = ICL,
) -> System:
    """The whole corpus in the context.

    Args:
        reserve_tokens, max_context_tokens: see `Sizes`.

    Raises:
        ContextTooLong: they do not fit.
    """
    ids, limit = renderer.context_ids(corpus_ids), context_limit(model.config, max_context_tokens)
    if limit is not None and len(ids) + reserve_tokens > limit:
        raise ContextTooLong(
            f"{name}: the corpus takes {len(ids)} tokens and a question with its answer up to {reserve_tokens}, and "
            f"the context holds {limit}; use truncated_icl, or a model with a longer context"
        )
    return prefilled(model, ids, name)


class WholeICL(AskedKind):
    """See `icl`."""

    name = ICL

    def read(self, given: SystemInput) -> System:
        """See `AskedKind.read`."""
        return icl(**given.context)
