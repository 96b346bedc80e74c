"""``lit-cartridges perplexity``."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Streaming perplexity of long documents: cascade, StreamingLLM, truncated and dense attention."""
    from lit_cartridges.commands.parsers import run_function
    from lit_cartridges.evals.perplexity_command import perplexity_command

    run_function(perplexity_command, args, prog="lit-cartridges perplexity")
