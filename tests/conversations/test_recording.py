from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_cartridges.self_study import (
    Conversation,
    Message,
    Recording,
    RecordingError,
    TopLogprobs,
    read_conversations,
    tokenizer_fingerprint,
    write_conversations,
)


def make(tokenizer, number, *, rounds=1, **metadata):
    rng, messages = np.random.default_rng(number), []
    for turn in range(rounds):
        question, answer = f"Who keeps {number} bees, {turn}?", f"Mira {turn} does: é."
        ids = tokenizer.encode(answer + "<|im_end|>")
        logprobs = np.log(rng.dirichlet(np.ones(6) * 0.3, size=len(ids)) + 1e-9)
        top = TopLogprobs.from_dense(rng.integers(200, size=(len(ids), 6)), np.minimum(logprobs, 0))
        messages += [Message("user", question, np.asarray(tokenizer.encode(question)))]
        messages += [Message("assistant", answer, np.asarray(ids), top)]
    known = {"group": number // 4, "index": number, "seed_prompt": "question", "temperature": 0.5}
    return Conversation(tuple(messages), "the text", {**known, **metadata})


@pytest.fixture
def conversations(tokenizer):
    fingerprint = tokenizer_fingerprint(tokenizer)
    return [make(tokenizer, n, rounds=1 + n % 3, tokenizer_fingerprint=fingerprint) for n in range(12)]


def test_round_trip(tmp_path, conversations, tokenizer):
    write_conversations(tmp_path / "sub" / "a.parquet", conversations)
    assert read_conversations(tmp_path / "sub" / "a.parquet", tokenizer=tokenizer) == conversations
    assert read_conversations(tmp_path / "sub") == conversations
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.parquet"], "nothing left beside it"


def test_round_trip_over_many_row_groups(tmp_path, tokenizer):
    many = [make(tokenizer, n, rounds=1 + n % 2) for n in range(600)]
    write_conversations(tmp_path / "a.parquet", many)
    assert read_conversations(tmp_path / "a.parquet") == many


def test_the_schema_on_disk(tmp_path, conversations):
    write_conversations(tmp_path / "a.parquet", conversations)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.schema_arrow.names == ["messages", "system_prompt", "metadata", "type"]
    message = file.schema_arrow.field("messages").type.value_type
    assert {message.field(i).name for i in range(message.num_fields)} == {
        "role",
        "content",
        "token_ids",
        "top_logprobs",
    }
    top = message.field("top_logprobs").type
    assert [(top.field(i).name, str(top.field(i).type.value_type)) for i in range(4)] == [
        ("token_idx", "int32"),
        ("token_id", "int32"),
        ("logprobs", "float"),
        ("shape", "int64"),
    ]
    assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
    row = file.read().to_pylist()[0]
    assert row["messages"][0]["top_logprobs"] is None
    assert row["messages"][1]["top_logprobs"]["shape"] == [len(row["messages"][1]["token_ids"]), 6]


def foreign_rows(conversations, *, with_ids=True, metadata=None):
    """What HazyResearch's own writer makes of its dataclasses: from_pylist, types inferred, int64 and float64."""
    rows = []
    for conversation in conversations:
        messages = []
        for m in conversation.messages:
            top = m.top_logprobs and {
                "token_idx": m.top_logprobs.token_idx.tolist(),
                "token_id": m.top_logprobs.token_id.tolist(),
                "logprobs": m.top_logprobs.logprobs.tolist(),
                "shape": list(m.top_logprobs.shape),
            }
            ids = m.token_ids.tolist() if with_ids or m.role == "assistant" else None
            messages.append({"content": m.content, "role": m.role, "token_ids": ids, "top_logprobs": top})
        rows.append(
            {"messages": messages, "system_prompt": "s", "metadata": metadata or {"tool": "x"}, "type": "t"}
        )
    return rows


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_foreign_file(tmp_path, conversations, tokenizer, with_ids):
    path = tmp_path / "f.parquet"
    rows = foreign_rows(
        conversations, with_ids=with_ids, metadata={"nested": {"a": 1}, "tool": "x", "none": None}
    )
    pq.write_table(pa.Table.from_pylist(rows), path)
    read = read_conversations(path, tokenizer=tokenizer)
    assert [c.messages for c in read] == [c.messages for c in conversations]
    assert read[0].metadata == {"tool": "x"} and read[0].type == "t"
    if not with_ids:
        with pytest.raises(RecordingError, match="user message has no token_ids"):
            read_conversations(path)


def test_a_foreign_file_without_any_log_probabilities(tmp_path, tokenizer):
    message = [
        {"content": c, "role": r, "token_ids": [1], "top_logprobs": None}
        for c, r in (("a", "user"), ("b", "assistant"))
    ]
    row = {"messages": message, "system_prompt": None, "metadata": None, "type": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "f.parquet")
    assert read_conversations(tmp_path / "f.parquet")[0].messages[1].top_logprobs is None


def test_recordings_of_another_tokenizer_are_refused(tmp_path, conversations, make_tokenizer):
    path = tmp_path / "a.parquet"
    write_conversations(path, conversations)
    other = make_tokenizer("chatml", extra=("more",))
    with pytest.raises(RecordingError, match=r"a.parquet: conversation 0 was made with another tokenizer"):
        read_conversations(path, tokenizer=other)
    with pytest.raises(RecordingError, match="another tokenizer"):
        recording = Recording(tmp_path / "r", tokenizer=other)
        recording.append(0, conversations)
        recording.read_group(0)


def test_foreign_recordings_of_another_tokenizer_are_refused(tmp_path, conversations, tokenizer):
    rows, path = foreign_rows(conversations), tmp_path / "f.parquet"
    for row in rows:
        for message in row["messages"]:
            message["token_ids"] = [i + 1 for i in message["token_ids"]]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(RecordingError, match="f.parquet: the token ids of .* do not decode to their text"):
        read_conversations(path, tokenizer=tokenizer)
    rows[3]["messages"][0]["token_ids"][0] = len(tokenizer)
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(RecordingError, match=f"conversation 3 holds token id {len(tokenizer)}, beyond"):
        read_conversations(path, tokenizer=tokenizer)


def test_fingerprint(make_tokenizer):
    assert tokenizer_fingerprint(make_tokenizer()) == tokenizer_fingerprint(make_tokenizer("llama"))
    grown = make_tokenizer()
    before = tokenizer_fingerprint(grown)
    assert before != tokenizer_fingerprint(make_tokenizer(extra=("more",)))
    grown.add_tokens(["another"])
    assert tokenizer_fingerprint(grown) != before


def test_truncated_and_foreign_files(tmp_path, conversations):
    path = tmp_path / "a.parquet"
    write_conversations(path, conversations)
    whole = path.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match="a.parquet: truncated, or no Parquet file"):
            read_conversations(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(RecordingError, match="a.parquet: no conversations, columns .*messages.* are missing"):
        read_conversations(path)
    pq.write_table(pa.table({n: ["x"] for n in ("messages", "system_prompt", "metadata", "type")}), path)
    with pytest.raises(RecordingError, match="not in the conversation schema"):
        read_conversations(path)
    with pytest.raises(RecordingError, match="no recording there"):
        read_conversations(tmp_path / "none.parquet")


def test_mixed_metadata(tmp_path, tokenizer):
    path = tmp_path / "a.parquet"
    mixed = [make(tokenizer, 0, a=1), make(tokenizer, 1, b="x")]
    write_conversations(path, mixed)
    assert read_conversations(path) == mixed
    bare = [Conversation(c.messages) for c in mixed]
    write_conversations(path, bare)
    assert read_conversations(path) == bare
    with pytest.raises(RecordingError, match=r"metadata\['a'\] is text in one"):
        write_conversations(path, [make(tokenizer, 0, a=1), make(tokenizer, 1, a="x")])
    assert read_conversations(path) == bare, "a failed write leaves the file as it was"


def test_recording(tmp_path, conversations, tokenizer, caplog):
    recording = Recording(tmp_path / "r", tokenizer=tokenizer)
    assert recording.groups() == []
    for group in (2, 0):
        path = recording.append(group, conversations[group * 4 : group * 4 + 4])
    recording.append(5, [])
    assert path.name == "part-00000000.parquet"
    assert recording.groups() == [0, 2, 5] and 2 in recording and 1 not in recording
    assert recording.read_group(2) == conversations[8:] and recording.read_group(5) == []
    before = path.stat().st_mtime_ns
    recording.append(0, conversations[:4])
    assert path.stat().st_mtime_ns == before, "a part that is there stays"
    with pytest.raises(RecordingError, match="group 1 is not recorded"):
        recording.read_group(1)
    assert recording.compact(tmp_path / "all.parquet") == 8
    assert read_conversations(tmp_path / "all.parquet") == conversations[:4] + conversations[8:]

    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert recording.groups() == [2, 5]
    assert "part-00000000.parquet is truncated" in caplog.text
    recording.append(0, conversations[:4])
    assert recording.read_group(0) == conversations[:4]
    with pytest.raises(RecordingError, match="group_index=-1"):
        recording.append(-1, [])
