"""Conversations from a recording, in the place of a Synthesizer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.settings import Count, checked
from lit_cartridges.teachers.conversation import Conversation
from lit_cartridges.teachers.conversation_file import conversation_files, read_conversations
from lit_cartridges.teachers.tokenizer_check import RecordingError, check_tokenizer


class RecordedConversations:
    """Gives recorded groups by index, wrapping around at the end; `epoch(group_index)` tells the round.

    Files are looked for at once, and read at the first use.
    """

    @checked
    def __init__(
        self, path: str | Path, *, tokenizer: Any = None, conversations_per_group: Count | None = None
    ) -> None:
        """
        Args:
            path: a .parquet file, ours or HazyResearch's, or a folder of parts; or PEFT's .jsonl.
            tokenizer: the run's tokenizer, here or later by `bind`.
            conversations_per_group: regroups the conversations in their order; without it the recorded groups stay,
                and a foreign file, which has none, goes by groups of 16.

        Raises:
            RecordingError: no recording at `path`, or a group size below 1.
        """
        self.path = Path(path)
        self.tokenizer = tokenizer
        self.conversations_per_group = conversations_per_group
        conversation_files(self.path)

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Takes the run's tokenizer and refuses, if it is already read, a recording of another one."""
        del model
        self.tokenizer = tokenizer
        if "groups" in self.__dict__:
            check_tokenizer([c for group in self.groups for c in group], tokenizer, str(self.path))

    @cached_property
    def groups(self) -> list[list[Conversation]]:
        """All conversations, group by group; groups of which nothing came are left out."""
        conversations = read_conversations(self.path, tokenizer=self.tokenizer)
        if not conversations:
            raise RecordingError(
                f"path={str(self.path)!r}: the recording is empty; synthesize some conversations first"
            )
        size = self.conversations_per_group
        if size is None and all("group" in c.metadata for c in conversations):
            by_group: dict[int, list[Conversation]] = {}
            for conversation in conversations:
                by_group.setdefault(int(conversation.metadata["group"]), []).append(conversation)
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
