"""Questions out of every kind of file, and what is none refused with its place."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.routing import RouterError
from lit_cartridges.routing.question_texts import read_questions, recorded_questions
from tests.tiny_run import save_corpus, save_recording

RECORDS = [
    {"question": "who?"},
    {"prompt": "why?", "answer": 3},
    {"instruction": " where? "},
    {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "when?"}]},
    {"question": "who?"},
]
FOUND = ["who?", "why?", "where?", "when?"]


def test_lines_records_and_recordings_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("who?\n\nwhy?\nwhere?\r\nwhen?\nwho?\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    (tmp_path / "a.json").write_text(json.dumps([*RECORDS, "who?"]))
    assert all(read_questions(tmp_path / name) == FOUND for name in ("a.txt", "a.jsonl", "a.json"))
    recording = save_recording(tmp_path / "a.parquet")
    assert read_questions(recording) == recorded_questions(recording) and len(read_questions(recording)) == 16


def test_conversations_about_another_corpus_are_left_out(tmp_path):
    corpus = save_corpus(tmp_path / "corpus.txt")
    recording = save_recording(tmp_path / "a.parquet", corpus=corpus)
    with pytest.raises(RouterError, match="a.parquet holds no conversation about the cartridge's corpus"):
        recorded_questions(recording, corpus_sha256="0" * 64)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"\n \n", "holds nothing"),
        ("a.txt", b"\xff\xfe\xff", "codec can't decode"),
        ("a.jsonl", b'{"question": "a"}\n{"text": "b"}\n', "line 2 has no text under question"),
        ("a.jsonl", b"{", "a.jsonl"),
        ("a.json", b'{"question": "a"}', "must hold a list"),
        ("a.json", b'[{"messages": [3]}]', "record 1 has no text"),
    ],
)
def test_what_is_none_is_refused_by_name(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RouterError, match=told):
        read_questions(tmp_path / name)
