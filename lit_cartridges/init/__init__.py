"""Init strategies: how a cartridge's tensors start."""

from lit_cartridges.found_classes import found_classes
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

INITS: dict[str, type[InitStrategy]] = found_classes(__name__, InitStrategy)
"""Every strategy of this folder by its name; `lit_cartridges.init.NAME` is there for those that no line above imports, too."""
globals().update(INITS)

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
