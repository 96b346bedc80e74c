"""Conversations in Parquet files, in HazyResearch's schema (reference: "Files on disk"); PEFT's JSONL is read as well.

Columns `messages`, `system_prompt`, `metadata`, `type`, compressed with snappy. Pages carry checksums, and the file's
metadata a sha256 of all conversations, since Parquet has no checksum of its own description of the pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_cartridges.conversations.columns import COLUMNS, decode_batch, encode_table
from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.peft import SUFFIX, read_peft_conversations
from lit_cartridges.conversations.tokenizer_check import RecordingError, check_tokenizer
from lit_cartridges.files.content import one_line
from lit_cartridges.runs.atomic_files import write_atomically

_ROWS_PER_GROUP = 512
_SHA256 = b"lit_cartridges.sha256"
# A file may repeat itself, and say much in few bytes; but not without bound.
_MOST_BYTES_PER_BYTE, _ALLOWANCE_BYTES = 1000, 2**28


def write_conversations(path: str | Path, conversations: Sequence[Conversation]) -> None:
    """Writes one file, beside its place first and then renamed into it.

    Raises:
        RecordingError: a metadata key that is text in one conversation and a number in another, or text that is no Unicode.
        OutOfSpaceError: no room for it; nothing is written then.
    """
    path = Path(path)
    content = pa.BufferOutputStream()
    try:
        table = encode_table(conversations)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise RecordingError(f"{path}: the conversations cannot be written: {one_line(error)}") from error
    pq.write_table(
        table.replace_schema_metadata({_SHA256: _sha256(conversations)}),
        content,
        compression="snappy",
        row_group_size=_ROWS_PER_GROUP,
        write_page_checksum=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, memoryview(content.getvalue()))


def read_conversations(
    path: str | Path, *, tokenizer: Any = None, vocab_size: int | None = None
) -> list[Conversation]:
    """Reads a file, or all `*.parquet` files of a folder in the order of their names.

    Args:
        path: ours or a foreign file of the same schema, or PEFT's .jsonl, which needs the tokenizer.
        tokenizer: when given, a recording of another tokenizer is refused, and messages recorded without token ids
            (foreign questions) are encoded with it.
        vocab_size: of the model, where it has more token ids than the tokenizer.

    Raises:
        RecordingError: nothing there, a truncated, damaged or foreign file, a wrong tokenizer; the message names the file.
    """
    conversations = []
    for file in conversation_files(path):
        part = list(_read_file(file, tokenizer))
        if tokenizer is not None:
            check_tokenizer(part, tokenizer, str(file), vocab_size=vocab_size)
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
    """Whether a part of ours is whole: its footer, which Parquet writes last, its checksums and its conversations."""
    try:
        for _ in _read_file(path, None):
            pass
    except RecordingError:
        return False
    return True


def _read_file(path: Path, tokenizer: Any) -> Iterator[Conversation]:
    if path.suffix == SUFFIX:
        yield from read_peft_conversations(path, tokenizer)
        return
    digest, read_bytes = hashlib.sha256(), 0
    try:
        file_bytes = path.stat().st_size
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = set(COLUMNS) - set(file.schema_arrow.names)
            if missing:
                raise RecordingError(f"{path}: no conversations, columns {sorted(missing)} are missing")
            # Not column by column: Arrow ends the process where a column's description is damaged.
            if not 0 <= file.metadata.num_rows <= file_bytes + _ALLOWANCE_BYTES:
                raise ValueError(
                    f"it has {file_bytes:,} bytes and claims {file.metadata.num_rows:,} conversations"
                )
            for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=list(COLUMNS)):
                read_bytes += batch.nbytes
                if read_bytes > _MOST_BYTES_PER_BYTE * file_bytes + _ALLOWANCE_BYTES:
                    raise ValueError(f"it has {file_bytes:,} bytes and unpacks to more than {read_bytes:,}")
                for conversation in decode_batch(batch, tokenizer):
                    _add(digest, conversation)
                    yield conversation
            said = (file.schema_arrow.metadata or {}).get(_SHA256, digest.hexdigest().encode())
        if said != digest.hexdigest().encode():
            raise RecordingError(
                f"{path}: was changed after it was written (sha256 differs); delete it and synthesize again"
            )
    except RecordingError as error:
        named = str(error).startswith(str(path))
        raise error if named else RecordingError(f"{path}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise RecordingError(
            f"{path}: truncated, or no Parquet file ({one_line(error)}); delete it and synthesize again"
        ) from error
    except Exception as error:  # a file of another making may hold anything, anywhere
        raise RecordingError(f"{path}: not in the conversation schema: {one_line(error)}") from error


def _sha256(conversations: Sequence[Conversation]) -> str:
    digest = hashlib.sha256()
    for conversation in conversations:
        _add(digest, conversation)
    return digest.hexdigest()


def _add(digest: Any, conversation: Conversation) -> None:
    """As it will be read: Parquet has one kind of number per metadata key, and no empty type."""
    known = sorted(
        (key, value if isinstance(value, str) else float(value))
        for key, value in conversation.metadata.items()
    )
    texts = [[message.role, message.content] for message in conversation.messages]
    head = [conversation.type or "self_study", conversation.system_prompt, known, texts]
    digest.update(json.dumps(head).encode())
    for message in conversation.messages:
        top = message.top_logprobs
        parts = (top.token_idx, top.token_id, top.logprobs) if top else ()
        for part in (message.token_ids, *parts):
            digest.update(f"\n{part.size} {top and top.shape} ".encode())
            digest.update(part)
