"""Self-study: from a corpus to conversations about it."""

from lit_cartridges.conversations.conversation import Conversation, ConversationError, Message
from lit_cartridges.conversations.recording import (
    Recording,
    RecordingError,
    read_conversations,
    tokenizer_fingerprint,
    write_conversations,
)
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.corpora.chunkers import Chunk, ChunkerError, TokenChunker
from lit_cartridges.corpora.open_corpus import (
    Corpus,
    CorpusError,
    Document,
    FolderCorpus,
    JsonCorpus,
    MarkdownCorpus,
    TextCorpus,
    open_corpus,
)
from lit_cartridges.self_study.seed_prompts import (
    SEED_PROMPTS,
    SeedPromptError,
    register_seed_prompts,
    resolve_seed_prompts,
)
from lit_cartridges.self_study.synthesizer import Synthesizer

__all__ = [
    "SEED_PROMPTS",
    "ChatRenderer",
    "Chunk",
    "ChunkerError",
    "Conversation",
    "ConversationError",
    "Corpus",
    "CorpusError",
    "Document",
    "FolderCorpus",
    "JsonCorpus",
    "MarkdownCorpus",
    "Message",
    "Recording",
    "RecordingError",
    "RendererError",
    "SeedPromptError",
    "Synthesizer",
    "TextCorpus",
    "TokenChunker",
    "TopLogprobs",
    "open_corpus",
    "read_conversations",
    "register_seed_prompts",
    "resolve_seed_prompts",
    "tokenizer_fingerprint",
    "write_conversations",
]
