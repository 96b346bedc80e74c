"""Lengths of conversations: read off a recording, or assumed, and how many a packed row takes."""

from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.conversations.recording import RecordingError, write_conversations
from lit_cartridges.data.batch import Example
from lit_cartridges.data.stream import ExampleStream
from lit_cartridges.estimates.lengths import FILE_BYTES, Lengths
from tests.tiny_run import conversation, tokenizer


def test_lengths_are_those_of_the_recording(tmp_path):
    made = [
        conversation(index, question_tokens=2 + index % 3, answer_tokens=4 + index % 5, group=index // 6)
        for index in range(12)
    ]
    write_conversations(tmp_path / "part-00000000.parquet", made)
    found = Lengths.of_recording(tmp_path, tokenizer())
    assert found.question == np.mean([2 + index % 3 for index in range(12)])
    assert found.answer == np.mean([4 + index % 5 for index in range(12)])
    assert (found.longest_question, found.longest_answer) == (4, 8)
    assert 12 * found.talk_bytes + FILE_BYTES == (tmp_path / "part-00000000.parquet").stat().st_size
    assert "12 conversations" in found.source


def test_a_recording_without_conversations_is_refused(tmp_path):
    write_conversations(tmp_path / "part-00000000.parquet", [])
    with pytest.raises(RecordingError, match="holds no conversation"):
        Lengths.of_recording(tmp_path, tokenizer())


def test_what_is_assumed_stays_below_the_limits():
    found = Lengths.assumed(question_max_tokens=24, answer_max_tokens=2000)
    assert (found.question, found.longest_question) == (24, 24)
    assert (found.answer, found.longest_answer) == (380, 2000)
    assert "assumed" in found.source and found.talk_bytes is None


@pytest.mark.parametrize("tokens_per_batch", [40, 100, 333])
def test_rows_are_packed_as_the_stream_packs(tokens_per_batch):
    rng = np.random.default_rng(3)
    sizes = rng.integers(5, 70, 400)

    class Source:
        counts: dict[str, float] = {}

        def examples(self, group):
            return [
                Example(
                    token_ids=np.ones(size, dtype=np.int64),
                    target_rows=np.arange(size - 1),
                    target_ids=np.ones(size - 1, dtype=np.int64),
                    top_ids=np.empty((size - 1, 0), dtype=np.int64),
                    top_logprobs=np.empty((size - 1, 0), dtype=np.float32),
                    label="",
                )
                for size in sizes[group % 10 :: 10]
            ]

    stream = iter(ExampleStream(Source(), tokens_per_batch=tokens_per_batch, groups_per_round=10))
    measured = np.mean([len(next(stream).lengths) for _ in range(300)])
    lengths = Lengths(
        question=1, answer=1, longest_question=1, longest_answer=1, talks=tuple(int(n) + 1 - 3 for n in sizes)
    )
    found = lengths.conversations_per_row(template_tokens=3, rounds=1, tokens_per_batch=tokens_per_batch)
    assert found == pytest.approx(measured, rel=0.03)
