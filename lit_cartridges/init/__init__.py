"""Init strategies: how a cartridge's tensors start."""

from lit_cartridges.init.attention_matching import AttentionMatching
from lit_cartridges.init.cascade_tokens import CascadeTokens
from lit_cartridges.init.first_tokens import FirstTokens
from lit_cartridges.init.from_cartridge import FromCartridge
from lit_cartridges.init.important_tokens import ImportantTokens
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.init.random_tokens import RandomTokens
from lit_cartridges.init.random_vectors import RandomVectors
from lit_cartridges.init.sampled_chunks import SampledChunks
from lit_cartridges.init.summary import Summary
from lit_cartridges.init.text import Text
from lit_cartridges.init.token_strategy import TokenStrategy

INITS: dict[str, type[InitStrategy]] = {
    cls.__name__: cls
    for cls in (
        RandomVectors,
        RandomTokens,
        FirstTokens,
        Text,
        Summary,
        SampledChunks,
        ImportantTokens,
        CascadeTokens,
        AttentionMatching,
        FromCartridge,
    )
}
"""Every strategy by its name."""

__all__ = [
    "INITS",
    "AttentionMatching",
    "CascadeTokens",
    "FirstTokens",
    "FromCartridge",
    "ImportantTokens",
    "InitContext",
    "InitStrategy",
    "InitialTensors",
    "RandomTokens",
    "RandomVectors",
    "SampledChunks",
    "Summary",
    "Text",
    "TokenStrategy",
]
