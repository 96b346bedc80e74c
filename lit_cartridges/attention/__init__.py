"""How a frozen model reads a prefix: attention over it and the rows' own tokens, and which call reads what."""

from lit_cartridges.attention.model_calls import NAME
from lit_cartridges.attention.prefixes import reading_prefix, reads_prefixes
from lit_cartridges.attention.reading import Reading
from lit_cartridges.models.readable import require_readable

__all__ = ["NAME", "Reading", "reading_prefix", "reads_prefixes", "require_readable"]
