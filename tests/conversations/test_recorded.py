from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.self_study import (
    Conversation,
    Message,
    Recording,
    RecordingError,
    TopLogprobs,
    tokenizer_fingerprint,
    write_conversations,
)
from lit_cartridges.teachers import RecordedConversations


def word_tokenizer(words):
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TOKENIZER = word_tokenizer(["bees", "who", "mira"])


def make(number, **metadata):
    top = TopLogprobs.from_dense([[3, 1]], [[-0.1, -3.0]])
    messages = (Message("user", "who", np.asarray([2])), Message("assistant", "mira", np.asarray([3]), top))
    return Conversation(messages, str(number), metadata)


@pytest.fixture
def folder(tmp_path):
    recording, fingerprint = Recording(tmp_path / "recording"), tokenizer_fingerprint(TOKENIZER)
    for group, size in ((0, 3), (4, 0), (7, 2)):
        recording.append(
            group, [make(i, group=group, tokenizer_fingerprint=fingerprint) for i in range(size)]
        )
    return recording.folder


def test_groups_wrap_around(folder):
    recorded = RecordedConversations(folder, tokenizer=TOKENIZER)
    assert [len(recorded.conversations(g)) for g in range(5)] == [3, 2, 3, 2, 3]
    assert recorded.conversations(1) == recorded.conversations(3) == Recording(folder).read_group(7)
    assert [recorded.epoch(g) for g in range(5)] == [0, 0, 1, 1, 2]
    assert len(recorded) == 5
    recorded.close()
    assert len(recorded) == 5


def test_one_file_and_regrouping(folder, tmp_path):
    Recording(folder).compact(tmp_path / "all.parquet")
    recorded = RecordedConversations(tmp_path / "all.parquet", conversations_per_group=2)
    assert [len(recorded.conversations(g)) for g in range(3)] == [2, 2, 1]
    assert recorded.conversations(0)[0] == Recording(folder).read_group(0)[0]
    assert len(RecordedConversations(tmp_path / "all.parquet").groups) == 2


def test_a_file_without_groups(tmp_path):
    write_conversations(tmp_path / "a.parquet", [make(i) for i in range(20)])
    recorded = RecordedConversations(tmp_path / "a.parquet", tokenizer=TOKENIZER)
    assert [len(group) for group in recorded.groups] == [16, 4]


def test_another_tokenizer_is_refused(folder):
    other = word_tokenizer(["bees", "who", "odrin"])
    with pytest.raises(RecordingError, match="another tokenizer"):
        RecordedConversations(folder, tokenizer=other).conversations(0)
    late = RecordedConversations(folder)
    late.conversations(0)
    with pytest.raises(RecordingError, match="another tokenizer"):
        late.bind(None, other)
    early = RecordedConversations(folder)
    early.bind(None, other)
    with pytest.raises(RecordingError, match="another tokenizer"):
        early.conversations(0)


def test_foreign_recordings_are_checked_by_their_text(tmp_path):
    write_conversations(tmp_path / "a.parquet", [make(0)])
    with pytest.raises(RecordingError, match="do not decode to their text"):
        RecordedConversations(
            tmp_path / "a.parquet", tokenizer=word_tokenizer(["who", "mira", "bees"])
        ).conversations(0)
    with pytest.raises(RecordingError, match="holds token id 3, beyond"):
        RecordedConversations(
            tmp_path / "a.parquet", tokenizer=word_tokenizer(["bees", "who"])
        ).conversations(0)


def test_bad_places(tmp_path):
    for path in (tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(RecordingError, match="path=.*no recording there"):
            RecordedConversations(path)
    write_conversations(tmp_path / "a.parquet", [])
    with pytest.raises(RecordingError, match="the recording is empty"):
        RecordedConversations(tmp_path).conversations(0)
    with pytest.raises(ValueError, match="conversations_per_group=0"):
        RecordedConversations(tmp_path, conversations_per_group=0)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RecordingError, match="a.parquet: truncated"):
        RecordedConversations(tmp_path).conversations(0)
