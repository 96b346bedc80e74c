"""A recording in progress: one Parquet part per group of conversations, so that a stopped run loses none."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.parquet import is_readable, read_conversations, write_conversations
from lit_cartridges.conversations.tokenizer_check import (
    RecordingError,
    check_tokenizer,
    tokenizer_fingerprint,
)
from lit_cartridges.files.content import named, one_line, parse_json
from lit_cartridges.runs.atomic_files import sweep, write_atomically

__all__ = [
    "Recording",
    "RecordingError",
    "check_tokenizer",
    "read_conversations",
    "tokenizer_fingerprint",
    "write_conversations",
]

_SETTINGS = "settings.json"
_log = logging.getLogger(__name__)


class Recording:
    """A folder of parts `part-{group:08d}.parquet`.

    Ranks and workers may append to the same folder: a part belongs to one group, and is renamed into place.
    A part that cannot be read counts as missing, with a warning, and the next `append` replaces it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tokenizer: Any = None,
        settings: Mapping[str, Any] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """
        Args:
            folder: made by the first `append`.
            tokenizer: when given, `read_group` refuses parts of another tokenizer.
            settings: what the conversations are made with (JSON values). They are kept beside the parts, and a folder
                of other settings is refused, since its groups would be taken for this run's. What a killed run has left
                half-written is removed.
            vocab_size: of the run's model, where it has more token ids than the tokenizer.

        Raises:
            RecordingError: the folder was made with other settings; the message names them. Or its settings are unreadable.
        """
        self.folder = Path(folder)
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.settings = None if settings is None else json.loads(json.dumps(settings))
        if settings is not None:
            self._check_settings()
            sweep(self.folder)

    def append(self, group_index: int, conversations: Sequence[Conversation]) -> Path:
        """Writes the group's part and returns its path; a part that is there already stays as it is.

        An empty group is written too: it says that the group is done and nothing came of it.
        """
        path = self._path(group_index)
        if not self._has(path):
            self._keep_settings()
            write_conversations(path, conversations)
        return path

    def groups(self) -> list[int]:
        """The groups whose parts can be read, ascending."""
        numbers = (path.stem.removeprefix("part-") for path in self.folder.glob("part-*.parquet"))
        return sorted(
            int(number) for number in numbers if number.isdecimal() and self._has(self._path(int(number)))
        )

    def __contains__(self, group_index: int) -> bool:
        return self._has(self._path(group_index))

    def read_group(self, group_index: int) -> list[Conversation]:
        """The conversations of one group.

        Raises:
            RecordingError: the group is missing or its part cannot be read, or it is of another tokenizer.
        """
        path = self._path(group_index)
        if not self._has(path):
            raise RecordingError(
                f"{self.folder}: group {group_index} is not recorded, present: {self.groups()[:10]}…"
            )
        return read_conversations(path, tokenizer=self.tokenizer, vocab_size=self.vocab_size)

    def compact(self, path: str | Path) -> int:
        """Writes all readable groups into one file, in order, and returns the number of conversations."""
        conversations = [conversation for group in self.groups() for conversation in self.read_group(group)]
        write_conversations(path, conversations)
        return len(conversations)

    def _check_settings(self) -> None:
        file = self.folder / _SETTINGS
        if not file.exists():
            return
        try:
            kept = parse_json(file.read_bytes(), strict=False)
            if not isinstance(kept, dict):
                raise ValueError(f"found {named(kept)}")
        except ValueError as error:
            raise RecordingError(
                f"{file} cannot be read ({one_line(error)}), so nobody knows what the conversations beside it were made "
                "with; give another recording folder, or delete that file if you are sure that the settings are the same"
            ) from error
        assert self.settings is not None
        names = [name for name in {**kept, **self.settings} if kept.get(name) != self.settings.get(name)]
        if names:
            changes = "; ".join(
                f"{one_line(name, 60)}: {one_line(repr(kept.get(name)))} then, {one_line(repr(self.settings.get(name)))} now"
                for name in names
            )
            raise RecordingError(
                f"recording={str(self.folder)!r} holds conversations made with other settings ({changes}); "
                "give another "
                "recording folder, or the settings of then"
            )

    def _keep_settings(self) -> None:
        file = self.folder / _SETTINGS
        if self.settings is None or file.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(self.settings, indent=2) + "\n").encode())

    def _path(self, group_index: int) -> Path:
        if group_index < 0:
            raise RecordingError(f"group_index={group_index} must be 0 or more")
        return self.folder / f"part-{group_index:08d}.parquet"

    def _has(self, path: Path) -> bool:
        if not path.exists():
            return False
        readable = is_readable(path)
        if not readable:
            _log.warning(
                "%s is truncated or no recording: its group counts as missing and is made again", path
            )
        return readable
