"""``lit-cartridges perplexity``."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Streaming perplexity of long documents: cascade, StreamingLLM, truncated and dense attention."""
    from jsonargparse import auto_cli

    from lit_cartridges.evals.perplexity_command import perplexity_command

    auto_cli(perplexity_command, args=args, prog="lit-cartridges perplexity", as_positional=False)
