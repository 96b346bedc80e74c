"""Conversations and corpus windows as examples: what the student reads, and what it must predict."""

from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.data.sources.example_source import ConversationExamples, CorpusExamples
from tests.tiny_run import conversation, tokenizer


class Source:
    def __init__(self, **options):
        self.options, self.calls, self.counts = options, [], {"made": 3}

    def conversations(self, group):
        self.calls.append(group)
        return [conversation(3 * group + i, group=group, **self.options) for i in range(3)]


@pytest.fixture
def renderer():
    return ChatRenderer(tokenizer())


def test_the_student_reads_the_chat_and_predicts_every_answer_token(renderer):
    made = conversation(0)
    example = ConversationExamples(Source(), renderer, top_k=4).example(made)
    question, answer = (m.token_ids.tolist() for m in made.messages)
    user, assistant = tokenizer().convert_tokens_to_ids(["<user>", "<assistant>"])
    assert example.token_ids.tolist() == [user, *question, assistant, *answer[:-1]]
    assert example.target_ids.tolist() == answer
    assert example.target_rows.tolist() == [len(question) + 1 + i for i in range(len(answer))]
    ids, logprobs = made.answers[0].top_logprobs.dense(4)
    np.testing.assert_array_equal(example.top_ids, ids)
    np.testing.assert_array_equal(example.top_logprobs, logprobs)
    assert example.label == "question"


def test_every_answer_of_several_rounds_is_a_target(renderer):
    first, second = conversation(0), conversation(1)
    both = Conversation(first.messages + second.messages, metadata=first.metadata)
    example = ConversationExamples(Source(), renderer, top_k=2).example(both)
    answers = [m.token_ids for m in both.answers]
    assert example.target_ids.tolist() == np.concatenate(answers).tolist()
    following = np.append(example.token_ids, answers[-1][-1])
    np.testing.assert_array_equal(following[example.target_rows + 1], example.target_ids)
    assert example.top_ids.shape == (12, 2)


def test_answers_without_log_probabilities_give_none(renderer):
    example = ConversationExamples(Source(), renderer).example(conversation(0, top_logprobs=False))
    assert example.top_ids.shape == example.top_logprobs.shape == (6, 0)


def test_what_the_teacher_read_is_carried_along_only_where_it_is_asked_for(renderer):
    assert ConversationExamples(Source(), renderer).example(conversation(0)).context_ids == ()
    source = ConversationExamples(Source(), renderer, context_of=lambda c: [c.metadata["index"], 8])
    assert source.example(conversation(5)).context_ids == (5, 8)


def test_a_group_is_recorded_as_it_is_made_and_read_back_instead_of_made_again(tmp_path, renderer):
    source = Source()
    examples = ConversationExamples(source, renderer, recording=Recording(tmp_path, tokenizer=tokenizer()))
    first = examples.examples(4)
    assert (tmp_path / "part-00000004.parquet").exists()
    again = examples.examples(4)
    assert source.calls == [4]
    assert examples.counts["conversations"] == 3
    assert examples.counts["synthesis/made"] == 3
    assert examples.counts["generating_s"] > 0
    for mine, other in zip(first, again, strict=True):
        for name in ("token_ids", "target_rows", "target_ids", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))


def test_groups_that_are_not_recorded_are_made_together_and_recorded_one_by_one(tmp_path, renderer):
    class Together(Source):
        def conversations_of(self, groups):
            self.asked = list(groups)
            for group in groups:
                if group == 7:
                    raise RuntimeError("stopped")
                yield self.conversations(group)

    source, recording = Together(), Recording(tmp_path, tokenizer=tokenizer())
    examples = ConversationExamples(source, renderer, recording=recording)
    examples.examples(4)
    made = examples.examples_of([2, 4, 6, 7, 8])
    for group in (2, 4, 6):
        expected = ConversationExamples(Source(), renderer).examples(group)
        for mine, other in zip(next(made), expected, strict=True):
            np.testing.assert_array_equal(mine.token_ids, other.token_ids)
    assert source.asked == [2, 6, 7, 8] and source.calls == [4, 2, 6]
    with pytest.raises(RuntimeError, match="stopped"):
        next(made)
    assert recording.groups() == [2, 4, 6] and examples.counts["conversations"] == 9


def test_corpus_windows_are_decided_by_seed_and_index_and_predict_every_next_token():
    corpus = np.arange(100, 160)
    source = CorpusExamples(corpus, window_tokens=8, windows_per_group=5, seed=3)
    windows = source.examples(7)
    assert len(windows) == 5
    for window, same in zip(
        windows, CorpusExamples(corpus, window_tokens=8, windows_per_group=5, seed=3).examples(7), strict=True
    ):
        start = window.token_ids[0]
        assert window.token_ids.tolist() == list(range(start, start + 7))
        assert window.target_ids.tolist() == list(range(start + 1, start + 8))
        assert window.target_rows.tolist() == list(range(7))
        assert window.top_ids.shape == (7, 0)
        np.testing.assert_array_equal(window.token_ids, same.token_ids)
    starts = [
        {
            int(w.token_ids[0])
            for g in range(40)
            for w in CorpusExamples(corpus, window_tokens=8, seed=s).examples(g)
        }
        for s in (3, 4)
    ]
    assert starts[0] == starts[1] == set(range(100, 153))  # every window, both ends included


def test_a_corpus_shorter_than_a_window_is_taken_whole():
    (window, *_) = CorpusExamples(np.arange(5), window_tokens=512).examples(0)
    assert window.token_ids.tolist() == [0, 1, 2, 3]
    assert window.target_ids.tolist() == [1, 2, 3, 4]
