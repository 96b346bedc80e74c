"""Conversations about a corpus: their messages, tokens and log-probabilities, their rendering and their files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_cartridges.conversations.conversation import Conversation, ConversationError, Message
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError, user
from lit_cartridges.conversations.tokenizer_check import RecordingError, tokenizer_fingerprint
from lit_cartridges.conversations.top_logprobs import TopLogprobs

if TYPE_CHECKING:
    from lit_cartridges.conversations.parquet import read_conversations, write_conversations
    from lit_cartridges.conversations.recording import Recording

__all__ = [
    "ChatRenderer",
    "Conversation",
    "ConversationError",
    "Message",
    "Recording",
    "RecordingError",
    "RendererError",
    "TopLogprobs",
    "read_conversations",
    "tokenizer_fingerprint",
    "user",
    "write_conversations",
]

# Their files are Parquet, which is of the extra [train]: generating needs the renderer alone.
_HOMES = {"Recording": "recording", "read_conversations": "parquet", "write_conversations": "parquet"}


def __getattr__(name: str) -> Any:
    """PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
