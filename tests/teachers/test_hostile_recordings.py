"""Recordings that are damaged, or say what cannot be: refused in one line that names the file, never read as another."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_cartridges.conversations import parquet as conversation_file
from lit_cartridges.conversations.conversation import Conversation, ConversationError, Message
from lit_cartridges.conversations.parquet import is_readable, read_conversations, write_conversations
from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.tokenizer_check import RecordingError, check_tokenizer
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from tests.teachers.test_foreign_conversations import jsonl, their_file, their_line, their_message, their_row
from tests.tiny_models import VOCAB
from tests.tiny_run import conversation, tokenizer


@pytest.fixture
def recording(tmp_path):
    write_conversations(tmp_path / "a.parquet", [conversation(i) for i in range(6)])
    return tmp_path / "a.parquet"


def refused(path, told, **options):
    with pytest.raises(RecordingError, match=told) as caught:
        read_conversations(path, **options)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(recording):
    whole, draw = recording.read_bytes(), random.Random(0)
    made = read_conversations(recording)
    refusals = 0
    for place in draw.sample(range(len(whole)), 800):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        recording.write_bytes(changed)
        try:
            assert read_conversations(recording) == made
        except RecordingError as error:
            refusals += 1
            assert str(recording) in str(error) and "\n" not in str(error)
    assert refusals > 500


def test_a_part_of_which_a_bit_was_flipped_counts_as_missing(tmp_path, caplog):
    recording = Recording(tmp_path)
    path = recording.append(0, [conversation(0)])
    content = bytearray(path.read_bytes())
    content[content.index(b"w0")] ^= 1  # in the text of a system prompt
    path.write_bytes(content)
    assert (
        not is_readable(path) and recording.groups() == [] and "is truncated or no recording" in caplog.text
    )


def test_pages_have_checksums_and_the_file_a_digest_that_covers_what_they_do_not(recording):
    table = pq.read_table(recording)
    prompts = pa.array(["another", *table["system_prompt"].to_pylist()[1:]])
    changed = table.set_column(1, "system_prompt", prompts)
    pq.write_table(changed, recording, write_page_checksum=True)
    refused(recording, r"was changed after it was written \(sha256 differs\)")
    pq.write_table(changed.replace_schema_metadata(None), recording)
    assert read_conversations(recording)[0].system_prompt == "another"


def test_checksums_of_pages_are_asked_for_where_a_foreign_file_has_them(tmp_path):
    path = their_file(
        tmp_path / "a.parquet", [their_row(their_message("user", "w1"), their_message("assistant", "w2"))]
    )
    pq.write_table(
        pq.read_table(path),
        path,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )
    assert read_conversations(path)[0].system_prompt == "w5 w6"
    path.write_bytes(path.read_bytes().replace(b"w5 w6", b"w5 w7", 1))
    refused(path, "truncated, or no Parquet file .*CRC checksum")


def test_a_metadata_number_that_parquet_turns_into_another_kind_is_the_same(tmp_path):
    messages = conversation(0).messages
    mixed = [Conversation(messages, "", {"a": 1}, ""), Conversation(messages, "", {"a": 0.5, "b": "x"})]
    write_conversations(tmp_path / "a.parquet", mixed)
    assert [c.metadata for c in read_conversations(tmp_path / "a.parquet")] == [
        {"a": 1},
        {"a": 0.5, "b": "x"},
    ]


def foreign(path, **changed):
    """Their file with one conversation whose answer's log-probabilities, or ids, are changed."""
    answer = their_message("assistant", "w3 w4", end=True, top=True)
    ids = changed.pop("token_ids", answer["token_ids"])
    answer = answer | {"token_ids": ids, "top_logprobs": answer["top_logprobs"] | changed}
    return their_file(path / "a.parquet", [their_row(their_message("user", "w1 w2"), answer)])


ROWS, IDS = np.array([0, 1, 2]), [20, 21, 22]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"logprobs": [-0.1, float("nan"), -0.1]}, "must be finite and at most 0"),
        ({"logprobs": [-0.1, -float("inf"), -0.1]}, "must be finite and at most 0"),
        ({"logprobs": [-0.1, 0.5, -0.1]}, "must be finite and at most 0"),
        ({"logprobs": [-0.1, None, -0.1]}, "1 nulls where numbers of float32 belong"),
        ({"logprobs": [1, 0, 1]}, "list<.*int64> with 0 nulls where numbers of float32"),
        ({"token_id": [20, -1, 22]}, "token_id must be ids from 0 up"),
        ({"token_id": [20, 2**40, 22]}, "where int32 belongs"),
        ({"token_id": [20.0, 21.0, 22.0]}, "where numbers of int32 belong"),
        ({"token_id": [20, 21]}, "must be of one length"),
        ({"token_idx": [0, 2, 1]}, "must ascend"),
        ({"token_idx": [0, 1, 3]}, "must lie in 0..2"),
        ({"token_idx": [0, 0, 2]}, "every row needs 1..3 entries"),
        ({"shape": [10**12, 3]}, r"shape=\(1000000000000, 3\) of 3 entries"),
        ({"shape": [3, 10**12]}, r"shape=\(3, 1000000000000\) of 3 entries"),
        ({"shape": [3, -1]}, "shape"),
        ({"shape": [3]}, "shape has 1 numbers"),
        ({"shape": []}, "shape has 0 numbers|nulls"),
        ({"shape": None}, "null field"),
        ({"token_ids": [10, 11]}, "2 token_ids but 3 rows"),
        ({"token_ids": [10, -11, 2]}, "ids from 0 up"),
        ({"token_ids": [10, 2**33, 2]}, "where int32 belongs"),
    ],
)
def test_log_probabilities_that_are_none_are_refused(changed, told, tmp_path):
    whole = {"token_idx": ROWS, "token_id": IDS, "logprobs": [-0.1] * 3, "shape": [3, 3]}
    assert read_conversations(foreign(tmp_path, **whole))
    refused(foreign(tmp_path, **(whole | changed)), told)


def test_a_row_of_more_than_all_probability_is_refused(tmp_path):
    rows = {"token_idx": [0, 0, 1, 2], "token_id": [20, 21, 22, 23], "shape": [3, 3]}
    assert read_conversations(foreign(tmp_path, **rows, logprobs=np.log([0.5, 0.51, 1, 1])))
    refused(foreign(tmp_path, **rows, logprobs=np.log([0.9, 0.9, 1, 1])), "probabilities of row 0 sum to 1.8")


@pytest.mark.parametrize("where", ["message", "top"])
def test_ids_beyond_the_vocabulary_are_refused_in_recordings_of_ours_too(where, tmp_path):
    known = conversation(0)
    question, answer = known.messages
    top = answer.top_logprobs
    if where == "message":
        answer = Message("assistant", answer.content, [*answer.token_ids[:-1], VOCAB + 3], top)
    else:
        ids = [*top.token_id[:-1], VOCAB + 3]
        top = TopLogprobs(top.token_idx, ids, top.logprobs, top.shape)
        answer = Message("assistant", answer.content, answer.token_ids, top)
    path = tmp_path / "a.parquet"
    write_conversations(path, [Conversation((question, answer), known.system_prompt, known.metadata)])
    told = f"conversation 0 holds token id {VOCAB + 3}, beyond the tokenizer's {VOCAB} entries"
    refused(path, told, tokenizer=tokenizer())
    with pytest.raises(RecordingError, match=told):
        RecordedConversations(path, tokenizer=tokenizer()).conversations(0)
    # A model's embedding may be larger than its tokenizer's vocabulary.
    assert read_conversations(path, tokenizer=tokenizer(), vocab_size=VOCAB + 4)
    assert RecordedConversations(path, tokenizer=tokenizer(), vocab_size=VOCAB + 4).conversations(0)
    with pytest.raises(RecordingError, match=told):
        check_tokenizer(read_conversations(path), tokenizer(), "it")


def test_an_id_that_no_int32_holds_is_not_wrapped():
    with pytest.raises(ConversationError, match="ids from 0 up"):
        Message("user", "a", np.array([2**32 + 5]))


@pytest.mark.parametrize("group", ["text", float("nan"), None])
def test_groups_that_are_no_numbers_are_no_groups(group, tmp_path):
    messages = conversation(0, top_logprobs=False).messages
    known = {} if group is None else {"group": group}
    write_conversations(tmp_path / "a.parquet", [Conversation(messages, "", known)] * 20)
    assert [len(g) for g in RecordedConversations(tmp_path / "a.parquet").groups] == [16, 4]


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation_file, "_ALLOWANCE_BYTES", 2**20)
    messages = their_message("user", "w1"), their_message("assistant", "w2")
    path = their_file(tmp_path / "a.parquet", [their_row(*messages, system_prompt="x" * 2**16)] * 600)
    assert path.stat().st_size < 2**15
    refused(path, "unpacks to more than")


def test_text_that_is_no_unicode_is_not_written(tmp_path):
    broken = Conversation((Message("user", "\ud800", [1]), Message("assistant", "a", [1])))
    with pytest.raises(RecordingError, match="a.parquet: the conversations cannot be written"):
        write_conversations(tmp_path / "a.parquet", [broken])
    assert not (tmp_path / "a.parquet").exists()


LINE = json.loads(json.dumps(their_line("w1", "w3")))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (LINE | {"ctx_len": float("nan")}, "NaN is no finite number"),
        (LINE | {"ctx_len": None}, "ctx_len must be a whole number"),
        (LINE | {"ctx_len": "4"}, "ctx_len must be a whole number"),
        (LINE | {"teacher_input_ids": "123"}, "teacher_input_ids must be a list of token ids, found '123'"),
        (LINE | {"teacher_input_ids": None}, "teacher_input_ids must be a list"),
        (
            LINE | {"student_input_ids": [1, None]},
            f"student_input_ids must be a whole number from 0 to {VOCAB - 1}",
        ),
        (LINE | {"student_input_ids": [True]}, "found True"),
        (LINE | {"student_input_ids": [1.0]}, "found 1.0"),
        (LINE | {"student_input_ids": [VOCAB]}, f"found {VOCAB}"),
        (LINE | {"student_input_ids": [2**70]}, "found"),
        (LINE | {"student_input_ids": [-1]}, "found -1"),
        (LINE | {"note": "\ud800"}, "half a surrogate pair"),
        ([LINE], "found a list"),
        (3, "found 3"),
    ],
)
def test_lines_of_peft_that_are_none_are_named(line, told, tmp_path):
    refused(jsonl(tmp_path / "a.jsonl", LINE, line), f"a.jsonl, line 2: .*{told}", tokenizer=tokenizer())


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b'{"ctx_len": ' + b"9" * 5000 + b"}"])
def test_bytes_that_are_no_lines_are_named(line, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(LINE).encode() + b"\n" + line)
    refused(tmp_path / "a.jsonl", "a.jsonl, line 2: ", tokenizer=tokenizer())


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "\x00", '{"seed": ' + "9" * 5000 + "}"])
def test_settings_that_cannot_be_read_are_named(text, tmp_path):
    Recording(tmp_path, settings={"seed": 0}).append(0, [])
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(RecordingError, match="settings.json cannot be read") as caught:
        Recording(tmp_path, settings={"seed": 0})
    assert "\n" not in str(caught.value)
