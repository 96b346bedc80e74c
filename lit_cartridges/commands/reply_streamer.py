"""Replies on the terminal, while they are generated."""

from __future__ import annotations

from typing import Any

from transformers import TextStreamer

from lit_cartridges.terminal import printable


class ReplyStreamer(TextStreamer):
    """Prints a reply piece by piece, without the prompt, special tokens, and what would drive the terminal.

    transformers' own prints what it gets: a model, or a corpus that it quotes, could clear the screen or set the title.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._held = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print the next piece; a carriage return waits for the line break that may follow it."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") and not stream_end else ""
        super().on_finalized_text(printable(text.removesuffix(self._held)), stream_end)
