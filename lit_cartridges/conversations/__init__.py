"""Conversations about a corpus: their messages, tokens and log-probabilities, their rendering and their files."""

from lit_cartridges.conversations.conversation import Conversation, ConversationError, Message
from lit_cartridges.conversations.parquet import read_conversations, write_conversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError, user
from lit_cartridges.conversations.tokenizer_check import RecordingError, tokenizer_fingerprint
from lit_cartridges.conversations.top_logprobs import TopLogprobs

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
