"""StreamingLLM (arXiv 2309.17453): sinks, and a sliding window behind them."""

from __future__ import annotations

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.evals.systems.cascade import Cascade

STREAMING_LLM = "streaming_llm"


class StreamingLLM(Cascade):
    """A cascade of the same total size with one sub-cache."""

    name = STREAMING_LLM

    def sized(self, cascade: CascadeOptions) -> CascadeOptions:
        """See `Cascade.sized`."""
        return cascade.streaming_llm()
