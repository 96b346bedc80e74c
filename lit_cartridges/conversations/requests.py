"""What people ask in a chat data set: the first user's message of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_cartridges.errors import CartridgesError
from lit_cartridges.files.content import is_text, one_line, parse_json

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_CHATS = ("messages", "conversations", "conversation")  # lists of turns
_TEXTS = ("prompt", "question", "instruction")  # the user's message itself
_ROLES, _CONTENTS = ("role", "from"), ("content", "value")
_USERS = ("user", "human")


class RequestFileError(CartridgesError, ValueError):
    """A chat data set that cannot be read, or in which nobody asks anything."""


def read_requests(path: str | Path) -> list[str]:
    """The first message of the user in every row, each once, in the rows' order; rows without one are left out.

    Args:
        path: .jsonl (one object per line), .json (a list of objects) or .parquet. A row holds its chat under ``messages`` or
            ``conversations`` (turns with ``role`` and ``content``, or ``from`` and ``value``), or the message under ``prompt``,
            ``question`` or ``instruction``. So recordings of ours are read as well.

    Raises:
        RequestFileError: it cannot be read, or no row has a user's message.
    """
    path = Path(path)
    try:
        found = dict.fromkeys(request for row in _rows(path) if (request := _first(row)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RequestFileError(
            f"path={str(path)!r} cannot be read as a chat data set: {one_line(error)}"
        ) from error
    if not found:
        raise RequestFileError(
            f"path={str(path)!r}: no row has a message of the user; a row is an object with messages or conversations (turns "
            "with role and content, or from and value), or with prompt, question or instruction"
        )
    return list(found)


def _rows(path: Path) -> Iterator[Any]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            columns = [name for name in (*_CHATS, *_TEXTS) if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
        return
    text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
    if suffix == ".json":
        content = parse_json(text, strict=False)
        yield from content if isinstance(content, list) else [content]
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield parse_json(line, strict=False)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON ({error})") from error


def _first(row: Any) -> str:
    """The first user's message; empty where there is none."""
    if not isinstance(row, Mapping):
        return ""
    turns = next((row[name] for name in _CHATS if isinstance(row.get(name), list)), None)
    if turns is None:
        return next((row[name] for name in _TEXTS if _said(row.get(name))), "")
    for turn in turns:
        if isinstance(turn, Mapping) and any(turn.get(name) in _USERS for name in _ROLES):
            return next((turn[name] for name in _CONTENTS if _said(turn.get(name))), "")
    return ""


def _said(value: Any) -> bool:
    return is_text(value) and bool(value.strip())
