"""Warnings before the work begins: settings that the length of the corpus makes pointless, with the numbers."""

from __future__ import annotations

import logging

from lightning.pytorch.utilities import rank_zero_only

_tell = rank_zero_only(logging.getLogger(__name__).warning)


def tell_long_cartridge(num_tokens: int, *, corpus_tokens: int) -> None:
    """Warn of a cartridge that is no shorter than what it stands for."""
    if num_tokens >= corpus_tokens:
        _tell(
            "model.num_tokens=%s: the cartridge is no shorter than its corpus of %s tokens, so the corpus itself in the "
            "context would cost no more; give a shorter cartridge or more text",
            f"{num_tokens:,}",
            f"{corpus_tokens:,}",
        )


def tell_long_chunks(*, min_tokens: int, max_tokens: int, corpus_tokens: int) -> None:
    """Warn where chunks of random length may be longer than the corpus, and are then all of it."""
    if max_tokens <= corpus_tokens:
        return
    whole = max_tokens - max(corpus_tokens, min_tokens - 1)
    share = whole / (max_tokens - min_tokens + 1)
    _tell(
        "data.source.min_chunk_tokens=%s, data.source.max_chunk_tokens=%s: the corpus has only %s tokens, so %s of the chunks "
        "are all of it; give at most %s, or more text",
        f"{min_tokens:,}",
        f"{max_tokens:,}",
        f"{corpus_tokens:,}",
        f"{share:.0%}",
        f"{corpus_tokens:,}",
    )


def tell_long_windows(window_tokens: int, *, corpus_tokens: int) -> None:
    """Warn where every window of the raw corpus is all of it."""
    if window_tokens > corpus_tokens:
        _tell(
            "data.source.window_tokens=%s: the corpus has only %s tokens, so every window is all of it; give fewer, or more "
            "text",
            f"{window_tokens:,}",
            f"{corpus_tokens:,}",
        )
