"""Systems under test, one a file: what the frozen model reads in front of a question, or keeps of a stream.

`SYSTEMS` has them by name. Those that are asked are read from a `SystemInput` and give a `System`, which `evaluate` asks;
those that are streamed give a document's log-probabilities, which `streaming_perplexity` adds up.
"""

from transformers import PreTrainedModel

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.systems.cartridge import CARTRIDGE, of_cartridge
from lit_cartridges.evals.systems.cascade import CASCADE, CascadeSystem
from lit_cartridges.evals.systems.dense import DENSE
from lit_cartridges.evals.systems.icl import ICL, icl
from lit_cartridges.evals.systems.kind import AskedKind, Sizes, StreamedKind, SystemInput, SystemKind
from lit_cartridges.evals.systems.no_context import NO_CONTEXT, no_context
from lit_cartridges.evals.systems.registry import SYSTEMS, chosen, names_of
from lit_cartridges.evals.systems.streaming_llm import STREAMING_LLM
from lit_cartridges.evals.systems.system import (
    ContextTooLong,
    System,
    TokenIds,
    context_limit,
    require_room,
)
from lit_cartridges.evals.systems.truncated import TRUNCATED
from lit_cartridges.evals.systems.truncated_icl import TRUNCATED_ICL, truncated_icl

__all__ = [
    "CARTRIDGE",
    "CASCADE",
    "DENSE",
    "ICL",
    "NO_CONTEXT",
    "STREAMING_LLM",
    "SYSTEMS",
    "TRUNCATED",
    "TRUNCATED_ICL",
    "AskedKind",
    "CascadeSystem",
    "ContextTooLong",
    "Sizes",
    "StreamedKind",
    "System",
    "SystemInput",
    "SystemKind",
    "TokenIds",
    "chosen",
    "context_limit",
    "icl",
    "names_of",
    "no_context",
    "of_cartridge",
    "require_room",
    "streamed",
    "truncated_icl",
]


def streamed(
    name: str,
    model: PreTrainedModel,
    renderer: ChatRenderer,
    corpus_ids: TokenIds,
    options: CascadeOptions,
) -> System:
    """The whole corpus, of any length, read through a cache of fixed size.

    Args:
        name: "cascade" or "streaming_llm".
    """
    [kind] = chosen([name], AskedKind)
    sizes = Sizes(cascade=options)
    return kind.read(SystemInput(model=model, renderer=renderer, corpus_ids=corpus_ids, sizes=sizes))
