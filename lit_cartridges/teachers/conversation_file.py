"""Conversations in Parquet files, in HazyResearch's schema (reference: "Files on disk"); PEFT's JSONL is read as well.

Columns `messages`, `system_prompt`, `metadata`, `type`, compressed with snappy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_cartridges.atomic_files import write_atomically
from lit_cartridges.teachers.conversation import Conversation
from lit_cartridges.teachers.conversation_columns import COLUMNS, decode_batch, encode_table
from lit_cartridges.teachers.peft_conversations import SUFFIX, read_peft_conversations
from lit_cartridges.teachers.tokenizer_check import RecordingError, check_tokenizer

_ROWS_PER_GROUP = 512


def write_conversations(path: str | Path, conversations: Sequence[Conversation]) -> None:
    """Writes one file, beside its place first and then renamed into it.

    Raises:
        RecordingError: a metadata key that is text in one conversation and a number in another.
        OutOfSpaceError: no room for it; nothing is written then.
    """
    path = Path(path)
    content = pa.BufferOutputStream()
    pq.write_table(
        encode_table(conversations),
        content,
        compression="snappy",
        row_group_size=_ROWS_PER_GROUP,
        write_page_checksum=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, memoryview(content.getvalue()))


def read_conversations(path: str | Path, *, tokenizer: Any = None) -> list[Conversation]:
    """Reads a file, or all `*.parquet` files of a folder in the order of their names.

    Args:
        path: ours or a foreign file of the same schema, or PEFT's .jsonl, which needs the tokenizer.
        tokenizer: when given, a recording of another tokenizer is refused, and messages recorded without token ids
            (foreign questions) are encoded with it.

    Raises:
        RecordingError: nothing there, a truncated or foreign file, a wrong tokenizer; the message names the file.
    """
    conversations = []
    for file in conversation_files(path):
        part = list(_read_file(file, tokenizer))
        if tokenizer is not None:
            check_tokenizer(part, tokenizer, str(file))
        conversations += part
    return conversations


def conversation_files(path: str | Path) -> list[Path]:
    """The Parquet files behind `path`, checked to exist.

    Raises:
        RecordingError: no such file, or a folder without any.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise RecordingError(
            f"path={str(path)!r}: no recording there; give a .parquet file or a folder of them, as "
            "`lit-cartridges synthesize` writes, or a .jsonl file of PEFT's"
        )
    return files


def is_readable(path: Path) -> bool:
    """Whether the file is whole: its footer, which Parquet writes last, and the checksums of its pages where it has any."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            file.read()
            return "messages" in file.schema_arrow.names
    except (pa.ArrowException, OSError):
        return False


def _read_file(path: Path, tokenizer: Any) -> Iterator[Conversation]:
    if path.suffix == SUFFIX:
        yield from read_peft_conversations(path, tokenizer)
        return
    try:
        with pq.ParquetFile(path) as file:
            missing = set(COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise RecordingError(f"{path}: no conversations, columns {sorted(missing)} are missing")
            for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
                yield from decode_batch(batch, tokenizer)
    except RecordingError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise RecordingError(
            f"{path}: truncated, or no Parquet file ({error}); delete it and synthesize again"
        ) from error
    except (KeyError, ValueError, AttributeError) as error:
        raise RecordingError(f"{path}: not in the conversation schema: {error}") from error
