"""Is a recording's tokenizer the one at hand? A wrong one trains on nonsense without any error."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Sequence
from typing import Any

from lit_cartridges.conversations.conversation import Conversation, ConversationError
from lit_cartridges.files.content import one_line

FINGERPRINT_KEY = "tokenizer_fingerprint"
# Enough messages to tell tokenizers apart; decoding all of 65k conversations would take minutes.
_DECODED_MESSAGES = 32
# A vocabulary of 128k entries takes a good tenth of a second, and a recording has thousands of parts to check.
_fingerprints: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()


class RecordingError(ConversationError):
    """A recording that cannot be read, or that does not fit the run."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 (hex) of the sorted vocabulary and the special ids: two tokenizers share it when ids mean the same."""
    specials = sorted(int(i) for i in tokenizer.all_special_ids)
    known = _fingerprints.get(tokenizer)
    if known is not None and known[0] == (len(tokenizer), specials):
        return known[1]
    vocabulary = sorted(tokenizer.get_vocab().items())
    fingerprint = hashlib.sha256(json.dumps([vocabulary, specials]).encode()).hexdigest()
    _fingerprints[tokenizer] = ((len(tokenizer), specials), fingerprint)
    return fingerprint


def check_tokenizer(
    conversations: Sequence[Conversation], tokenizer: Any, source: str, *, vocab_size: int | None = None
) -> None:
    """Refuses conversations of another tokenizer.

    Ours carry a fingerprint. Foreign ones do not, so most of a sample must decode to the text that stands beside them.
    All ids must lie within the vocabulary: the tokenizer's, or the model's ``vocab_size``, which may be padded.

    Raises:
        RecordingError: naming `source` and the first conversation at fault.
    """
    fingerprint, size = tokenizer_fingerprint(tokenizer), max(len(tokenizer), vocab_size or 0)
    decoded = agreeing = 0
    for number, conversation in enumerate(conversations):
        recorded = conversation.metadata.get(FINGERPRINT_KEY)
        if recorded not in (None, fingerprint):
            raise RecordingError(
                f"{source}: conversation {number} was made with another tokenizer "
                f"(tokenizer_fingerprint={one_line(recorded, 13)}, the run's is {fingerprint[:12]}…); use "
                "the recording's model, or synthesize again"
            )
        for message in conversation.messages:
            top = message.top_logprobs
            largest = max(
                int(ids.max(initial=-1)) for ids in (message.token_ids, *([top.token_id] if top else []))
            )
            if largest >= size:
                raise RecordingError(
                    f"{source}: conversation {number} holds token id {largest}, beyond the tokenizer's "
                    f"{size} entries; use the tokenizer that made the recording"
                )
            if recorded is None and decoded < _DECODED_MESSAGES and len(message.token_ids):
                decoded += 1
                text = tokenizer.decode(message.token_ids.tolist(), skip_special_tokens=True)
                agreeing += "".join(text.split()) == "".join(message.content.split())
    # Foreign recordings strip thoughts or cut inside a character now and then; another tokenizer hardly ever agrees.
    if agreeing * 2 < decoded:
        raise RecordingError(
            f"{source}: the token ids of {decoded - agreeing} of {decoded} messages do not decode to their "
            "text; use the tokenizer that made the recording"
        )
