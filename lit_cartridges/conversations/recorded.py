"""Conversations from a recording, in the place of a Synthesizer."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.parquet import conversation_files, read_conversations
from lit_cartridges.conversations.tokenizer_check import RecordingError, check_tokenizer
from lit_cartridges.settings import Count, checked


class RecordedConversations:
    """Gives recorded groups by index, wrapping around at the end; `epoch(group_index)` tells the round.

    Files are looked for at once, and read at the first use.
    """

    @checked
    def __init__(
        self,
        path: str | Path,
        *,
        tokenizer: Any = None,
        conversations_per_group: Count | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """
        Args:
            path: a .parquet file, ours or HazyResearch's, or a folder of parts; or PEFT's .jsonl.
            tokenizer: the run's tokenizer, here or later by `bind`.
            conversations_per_group: regroups the conversations in their order; without it the recorded groups stay,
                and a foreign file, which has none, goes by groups of 16.
            vocab_size: of the run's model, where it has more token ids than the tokenizer.

        Raises:
            RecordingError: no recording at `path`, or a group size below 1.
        """
        self.path = Path(path)
        self.tokenizer = tokenizer
        self.conversations_per_group, self.vocab_size = conversations_per_group, vocab_size
        conversation_files(self.path)

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Takes the run's tokenizer and refuses, if it is already read, a recording of another one."""
        del model
        self.tokenizer = tokenizer
        if "groups" in self.__dict__:
            made = [c for group in self.groups for c in group]
            check_tokenizer(made, tokenizer, str(self.path), vocab_size=self.vocab_size)

    @cached_property
    def groups(self) -> list[list[Conversation]]:
        """All conversations, group by group; groups of which nothing came are left out."""
        conversations = read_conversations(self.path, tokenizer=self.tokenizer, vocab_size=self.vocab_size)
        if not conversations:
            raise RecordingError(
                f"path={str(self.path)!r}: the recording is empty; synthesize some conversations first"
            )
        size = self.conversations_per_group
        numbers = [conversation.metadata.get("group") for conversation in conversations]
        if size is None and all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            by_group: dict[float, list[Conversation]] = {}
            for number, conversation in zip(numbers, conversations, strict=True):
                by_group.setdefault(float(number or 0), []).append(conversation)
            return [by_group[group] for group in sorted(by_group)]
        size = size or 16
        return [conversations[i : i + size] for i in range(0, len(conversations), size)]

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def epoch(self, group_index: int) -> int:
        """How often the whole recording was given before this group."""
        return group_index // len(self.groups)

    def conversations(self, group_index: int) -> list[Conversation]:
        """The group at `group_index` modulo the number of groups."""
        return self.groups[group_index % len(self.groups)]

    def close(self) -> None:
        """Forgets what was read."""
        self.__dict__.pop("groups", None)
