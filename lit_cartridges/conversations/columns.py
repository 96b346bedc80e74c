"""Conversations as Arrow columns and back, through numpy: a real recording holds billions of log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lit_cartridges.conversations.conversation import Conversation, Message, Scalar
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.text import text_ids

COLUMNS = ("messages", "system_prompt", "metadata", "type")
_TOP_FIELDS = (("token_idx", np.int32), ("token_id", np.int32), ("logprobs", np.float32), ("shape", np.int64))


def encode_table(conversations: Sequence[Conversation]) -> pa.Table:
    """The table of HazyResearch's schema.

    Raises:
        RecordingError: a metadata key that is text in one conversation and a number in another.
    """
    messages = [message for conversation in conversations for message in conversation.messages]
    return pa.table(
        {
            "messages": _nested(_messages_array(messages), [len(c.messages) for c in conversations]),
            "system_prompt": pa.array([c.system_prompt for c in conversations], pa.string()),
            "metadata": _metadata_array([c.metadata for c in conversations]),
            "type": pa.array([c.type for c in conversations], pa.string()),
        }
    )


def decode_batch(batch: pa.RecordBatch, tokenizer: Any) -> Iterator[Conversation]:
    """The conversations of a batch; messages without token ids are encoded with `tokenizer`.

    Raises:
        ValueError: columns, numbers or conversations that are not of the schema.
    """
    column = batch.column("messages")
    flat = column.flatten()
    top = flat.field("top_logprobs")
    ids = _rows(flat.field("token_ids"), np.int32)
    # A column that is null throughout has no struct type to take fields from.
    has_top = [False] * len(flat) if pa.types.is_null(top.type) else top.is_valid().to_pylist()
    parts = [_rows(top.field(name), dtype) for name, dtype in _TOP_FIELDS] if any(has_top) else []
    messages = []
    for i, (role, content) in enumerate(
        zip(flat.field("role").to_pylist(), flat.field("content").to_pylist(), strict=True)
    ):
        token_ids = ids[i]
        if token_ids is None:
            if tokenizer is None:
                raise RecordingError(
                    f"a {role} message has no token_ids; give the tokenizer that shall encode it"
                )
            token_ids = np.asarray(text_ids(tokenizer, content), dtype=np.int32)
        top_logprobs = None
        if has_top[i]:
            token_idx, token_id, logprobs, shape = (_required(part[i]) for part in parts)
            if len(shape) != 2:
                raise ValueError(f"top_logprobs.shape has {len(shape)} numbers, and must be (tokens, k)")
            top_logprobs = TopLogprobs(token_idx, token_id, logprobs, (int(shape[0]), int(shape[1])))
        messages.append(Message(role, content, token_ids, top_logprobs))
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
    texts, metadata, types = (
        batch.column(name).to_pylist() for name in ("system_prompt", "metadata", "type")
    )
    for row, end in enumerate(ends):
        start = ends[row - 1] if row else 0
        # Foreign metadata also holds lists (of tool calls) and truth values.
        kept = {
            key: int(value) if isinstance(value, bool) else value
            for key, value in dict(metadata[row] or {}).items()
            if isinstance(value, (str, int, float))
        }
        yield Conversation(tuple(messages[start:end]), texts[row] or "", kept, types[row] or "self_study")


def _rows(lists: pa.Array, dtype: Any) -> list[np.ndarray[Any, Any] | None]:
    """A list column as one array per row, None where the row is null.

    Raises:
        ValueError: other than numbers of the kind of ``dtype``, none of them null or beyond its range.
    """
    if pa.types.is_null(lists.type):
        return [None] * len(lists)
    values = lists.flatten()
    fits = pa.types.is_integer if np.issubdtype(dtype, np.integer) else pa.types.is_floating
    if not (fits(values.type) or len(values) == 0) or values.null_count:
        raise ValueError(
            f"{lists.type} with {values.null_count} nulls where numbers of {np.dtype(dtype)} belong"
        )
    flat = values.to_numpy(zero_copy_only=False) if len(values) else np.empty(0, dtype)
    if np.issubdtype(dtype, np.integer) and len(flat):
        limits = np.iinfo(dtype)
        if flat.min() < limits.min or flat.max() > limits.max:
            raise ValueError(f"{flat.min()}..{flat.max()} where {np.dtype(dtype)} belongs")
    flat = flat.astype(dtype)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    pieces = np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return [
        piece if valid else None for piece, valid in zip(pieces, lists.is_valid().to_pylist(), strict=True)
    ]


def _required(value: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    if value is None:
        raise ValueError("top_logprobs has a null field")
    return value


def _nested(values: pa.Array, lengths: Sequence[int]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _lists(rows: Sequence[Any], dtype: Any) -> pa.Array:
    flat = np.concatenate([np.asarray(row, dtype=dtype) for row in rows]) if rows else np.empty(0, dtype)
    return _nested(pa.array(flat), [len(row) for row in rows])


def _messages_array(messages: Sequence[Message]) -> pa.Array:
    tops = [message.top_logprobs for message in messages]
    columns = [
        _lists([getattr(top, name) if top else () for top in tops], dtype) for name, dtype in _TOP_FIELDS
    ]
    absent = pa.array([top is None for top in tops], pa.bool_())
    top_array = pa.StructArray.from_arrays(columns, names=[name for name, _ in _TOP_FIELDS], mask=absent)
    return pa.StructArray.from_arrays(
        [
            pa.array([message.role for message in messages], pa.string()),
            pa.array([message.content for message in messages], pa.string()),
            _lists([message.token_ids for message in messages], np.int32),
            top_array,
        ],
        names=["role", "content", "token_ids", "top_logprobs"],
    )


def _metadata_array(rows: Sequence[dict[str, Scalar]]) -> pa.Array:
    """A struct with the union of the keys; Parquet cannot hold a struct without any, hence the stand-in `index`."""
    keys = sorted({key for row in rows for key in row}) or ["index"]
    columns = []
    for key in keys:
        values = [row.get(key) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if str in kinds and len(kinds) > 1:
            raise RecordingError(
                f"metadata[{key!r}] is text in one conversation and a number in another; use one kind"
            )
        kind = pa.string() if str in kinds else pa.float64() if float in kinds else pa.int64()
        columns.append(pa.array(values, kind))
    return pa.StructArray.from_arrays(columns, names=keys)
