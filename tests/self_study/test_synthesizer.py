from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.conversations.renderer import user
from lit_cartridges.self_study import ChatRenderer, Recording, Synthesizer, TokenChunker
from lit_cartridges.teachers.teacher import Completion, Sampling, Teacher, TeacherError, TopLogprobs

CORPUS = " ".join(f"Person {i} keeps {i * 7} bees in house {i * 3}." for i in range(60))
PROMPTS = {"ask": ["Ask one thing.", "Ask something."], "sum": ["Summarize."], "play": ["Play!"]}


class TableTeacher(Teacher):
    """A second-order Markov model whose table is drawn from the two last tokens and the context; samples for real."""

    def __init__(self, tokenizer, *, end_bias=1.0):
        letters = [tokenizer.convert_tokens_to_ids(c) for c in "abcdefghijklmnop"]
        self.choices = np.asarray([*letters, tokenizer.convert_tokens_to_ids("<|im_end|>")])
        self.end_bias, self.calls = end_bias, []

    def logprobs(self, context_ids, ids):
        table = np.random.default_rng([sum(context_ids), *ids[-2:]])
        scores = table.normal(size=len(self.choices)) * 2
        scores[-1] += self.end_bias
        return scores - np.log(np.exp(scores).sum())

    def complete(self, *, context_ids, prompts, sampling, seeds, top_k=0, min_mass=0.99):
        self.calls.append((list(context_ids), [list(p) for p in prompts], sampling, list(seeds), top_k))
        return [
            self._one(context_ids, p, sampling, s, top_k, min_mass)
            for p, s in zip(prompts, seeds, strict=True)
        ]

    def _one(self, context_ids, prompt, sampling, seed, top_k, min_mass):
        ids, rows, rng = list(prompt), [], np.random.default_rng(seed)
        for _ in range(sampling.max_new_tokens):
            row = self.logprobs(context_ids, ids)
            noise = rng.gumbel(size=len(row)) * sampling.temperature
            rows.append(row)
            ids.append(int(self.choices[np.argmax(row + noise)]))
            if ids[-1] in self.stop_token_ids:
                break
        new = np.asarray(ids[len(prompt) :])
        ended, top = bool(new[-1] in self.stop_token_ids), None
        if top_k:
            order = np.argsort(-np.asarray(rows), axis=1)[:, :top_k]
            values = np.take_along_axis(np.asarray(rows), order, axis=1)
            top = TopLogprobs.from_dense(self.choices[order], values, min_mass=min_mass)
        return Completion(new, top, ended)


class SilentTeacher(Teacher):
    """Ends every reply of the given length limit at once; others come from a TableTeacher."""

    def __init__(self, tokenizer, *, silent_max_tokens):
        self.inner = TableTeacher(tokenizer, end_bias=-50.0)
        self.silent_max_tokens = silent_max_tokens
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def complete(self, *, prompts, sampling, top_k=0, **rest):
        if sampling.max_new_tokens == self.silent_max_tokens:
            top = TopLogprobs.from_dense([[self.end]], [[0.0]]) if top_k else None
            return [Completion(np.asarray([self.end]), top, True) for _ in prompts]
        self.inner.stop_token_ids = self.stop_token_ids
        return self.inner.complete(prompts=prompts, sampling=sampling, top_k=top_k, **rest)


def make(tokenizer, teacher=None, **changes):
    settings = {
        "corpus_ids": np.asarray(tokenizer.encode(CORPUS), dtype=np.int32),
        "chunker": TokenChunker(min_tokens=50, max_tokens=200),
        "renderer": ChatRenderer(tokenizer),
        "teacher": teacher or TableTeacher(tokenizer),
        "seed_prompts": PROMPTS,
        "seed": 3,
        "conversations_per_group": 6,
        "question": Sampling(0.6, 9),
        "answer": Sampling(0.0, 12),
        "top_k": 5,
        "corpus_sha256": "abc",
    }
    return Synthesizer(**{**settings, **changes})


def test_one_group(tokenizer):
    synthesizer = make(tokenizer)
    conversations = synthesizer.conversations(2)
    teacher, renderer = synthesizer.teacher, synthesizer.renderer
    assert teacher.stop_token_ids == renderer.stop_token_ids()
    (question_context, questions, sampling, _, k), (context, prompts, answer_sampling, seeds, answer_k) = (
        teacher.calls
    )
    assert question_context == context and (sampling, k) == (Sampling(0.6, 9), 0)
    assert (answer_sampling, answer_k) == (Sampling(0.0, 12), 5) and len(set(seeds)) == len(seeds)
    known = [renderer.prompt_ids([user(w)]) for kind in PROMPTS.values() for w in kind]
    assert all(question in known for question in questions)
    assert prompts == [renderer.prompt_ids([c.messages[0]]) for c in conversations]
    assert [c.metadata["index"] for c in conversations] == sorted(
        {c.metadata["index"] for c in conversations}
    )
    for conversation in conversations:
        metadata = conversation.metadata
        start, count = metadata["chunk_start_token"], metadata["chunk_num_tokens"]
        assert context == renderer.context_ids(synthesizer.corpus_ids[start : start + count])
        assert conversation.system_prompt == CORPUS[start : start + count], "one byte, one token"
        assert 12 <= metadata["index"] < 18 and metadata["group"] == 2
        assert metadata["seed_prompt"] in PROMPTS and metadata["corpus_sha256"] == "abc"
        question, answer = conversation.messages
        assert question.content == tokenizer.decode(question.token_ids) and question.top_logprobs is None
        assert answer.top_logprobs.shape == (len(answer.token_ids), 5)
        ended = answer.token_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert metadata["cut_answers"] == (0 if ended else 1)


def test_answers_carry_the_teacher_s_log_probabilities(tokenizer):
    synthesizer = make(tokenizer)
    conversation = synthesizer.conversations(0)[0]
    context = synthesizer.teacher.calls[1][0]
    ids, logprobs = conversation.messages[1].top_logprobs.dense(1)
    read = synthesizer.renderer.prompt_ids([conversation.messages[0]])
    for token, best, value in zip(conversation.messages[1].token_ids, ids[:, 0], logprobs[:, 0], strict=True):
        expected = synthesizer.teacher.logprobs(context, read)
        assert best == synthesizer.teacher.choices[expected.argmax()] == token
        assert value == pytest.approx(expected.max(), abs=1e-5)
        read = [*read, int(token)]


def test_a_group_is_decided_by_seed_and_index_alone(tokenizer):
    whole = make(tokenizer)
    in_order = [whole.conversations(g) for g in range(5)]
    assert make(tokenizer).conversations(3) == in_order[3], "a fresh process, straight to group 3"
    assert make(tokenizer, seed=4).conversations(3) != in_order[3]
    starts = {c[0].metadata["chunk_start_token"] for c in in_order if c}
    assert len(starts) > 1


def test_groups_made_together_are_those_made_one_by_one(tokenizer):
    together = make(tokenizer, num_rounds=2)
    assert list(together.conversations_of([3, 0, 5])) == [
        make(tokenizer, num_rounds=2).conversations(group) for group in (3, 0, 5)
    ]
    apart = make(tokenizer, num_rounds=2)
    for group in (3, 0, 5):
        apart.conversations(group)
    assert together.counts == apart.counts


def test_a_teachers_error_names_the_group_and_its_chunk(tokenizer):
    class Limited(TableTeacher):
        def complete(self, *, context_ids, **rest):
            if len(context_ids) > 120:
                raise TeacherError("the chunk is too long")
            return super().complete(context_ids=context_ids, **rest)

    made, expected = make(tokenizer, Limited(tokenizer)).conversations_of(range(20)), make(tokenizer)
    with pytest.raises(TeacherError, match="is too long") as caught:
        for group, conversations in enumerate(made):
            assert conversations == expected.conversations(group)
    failed = expected.conversations(len(expected.teacher.calls) // 2)[0].metadata
    start, count = failed["chunk_start_token"], failed["chunk_num_tokens"]
    assert str(caught.value) == (
        f"the chunk is too long (group {failed['group']}, about the {count:,} tokens of the corpus from token {start:,} on)"
    )


def test_seed_prompts_are_equally_likely(tokenizer):
    synthesizer = make(tokenizer)
    kinds = [synthesizer._start(index).kind for index in range(3000)]
    assert all(abs(kinds.count(kind) / 3000 - 1 / 3) < 0.05 for kind in PROMPTS)


def test_rounds(tokenizer):
    synthesizer = make(tokenizer, num_rounds=3, answer=Sampling(0.0, 200))
    conversations = synthesizer.conversations(0)
    longest = max(conversations, key=lambda c: len(c.messages))
    assert len(longest.messages) == 6
    teacher, renderer = synthesizer.teacher, synthesizer.renderer
    assert len(teacher.calls) == 6
    assert renderer.prompt_ids(longest.messages[:5]) in teacher.calls[5][1]
    # The asking side sees its own questions as answers and the answers as messages.
    row = next(i for i, p in enumerate(teacher.calls[3][1]) if p == renderer.prompt_ids(longest.messages[:3]))
    turned = tokenizer.decode(teacher.calls[2][1][row])
    assert turned.index(longest.messages[0].content) < turned.index(f"user\n{longest.messages[1].content}")
    ids, spans = renderer.conversation_ids(longest.messages)
    assert [ids[s].tolist() for s in spans] == [a.token_ids.tolist() for a in longest.answers]


def test_off_corpus_groups_answer_without_context(tokenizer):
    other = np.asarray(tokenizer.encode("0123456789" * 30), dtype=np.int32)
    synthesizer = make(tokenizer, off_corpus_ids=other, off_corpus_share=1.0)
    conversations = synthesizer.conversations(0)
    (question_context, *_), (answer_context, prompts, *_) = synthesizer.teacher.calls
    assert "0123" in tokenizer.decode(question_context) and answer_context == []
    assert prompts == [synthesizer.renderer.bare_prompt_ids(c.messages[:1]) for c in conversations]
    assert {(c.type, c.system_prompt) for c in conversations} == {("off_corpus", "")}
    mixed = make(tokenizer, conversations_per_group=2, off_corpus_ids=other, off_corpus_share=0.25)
    types = [c[0].type for g in range(60) if (c := mixed.conversations(g))]
    assert 0.1 < types.count("off_corpus") / len(types) < 0.4


def test_counts(tokenizer):
    synthesizer = make(tokenizer)
    made = sum(len(synthesizer.conversations(g)) for g in range(10))
    counts = synthesizer.counts
    assert counts["made"] == made and made + counts["empty_questions"] + counts["empty_answers"] == 60
    assert counts["empty_questions"] and counts["cut_questions"] and counts["cut_answers"]


@pytest.mark.parametrize(("silent", "count"), [(9, "empty_questions"), (12, "empty_answers")])
def test_a_teacher_that_returns_nothing(tokenizer, silent, count):
    synthesizer = make(tokenizer, SilentTeacher(tokenizer, silent_max_tokens=silent))
    assert synthesizer.conversations(0) == [] and synthesizer.conversations(1) == []
    assert synthesizer.counts[count] == 12
    with pytest.raises(TeacherError, match=f"returned nothing for 3 groups of 6.*{count}.*max_new_tokens"):
        synthesizer.conversations(2)


def test_a_teacher_that_drops_rows(tokenizer):
    class Short(TableTeacher):
        def complete(self, **rest):
            return super().complete(**rest)[:-1]

    with pytest.raises(TeacherError, match="Short gave 5 completions for 6 prompts"):
        make(tokenizer, Short(tokenizer)).conversations(0)


def test_reserved_tokens_bound_every_prompt(tokenizer):
    synthesizer = make(tokenizer, num_rounds=3)
    for group in range(5):
        synthesizer.conversations(group)
    for context, prompts, sampling, *_ in synthesizer.teacher.calls:
        chunk = len(context) - len(synthesizer.renderer.context_ids([]))
        used = len(context) + max(map(len, prompts)) + sampling.max_new_tokens
        assert used - chunk <= synthesizer.reserved_tokens


def test_recorded_and_read_back(tokenizer, tmp_path):
    synthesizer, recording = make(tokenizer, num_rounds=2), Recording(tmp_path, tokenizer=tokenizer)
    for group in range(3):
        recording.append(group, synthesizer.conversations(group))
    assert recording.read_group(1) == make(tokenizer, num_rounds=2).conversations(1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"conversations_per_group": 0}, ValueError, "conversations_per_group=0"),
        ({"num_rounds": 0}, ValueError, "num_rounds=0"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"off_corpus_share": 1.5}, ValueError, "off_corpus_share=1.5"),
        ({"off_corpus_share": 0.1}, ValueError, "off_corpus_share=0.1 needs off_corpus_ids"),
        ({"min_mass": 0.0}, ValueError, "min_mass=0.0"),
        ({"top_k": 10_000}, TeacherError, "top_k=10000 must lie in 0.."),
        ({"corpus_ids": np.empty(0, np.int32)}, ValueError, "corpus_ids is empty"),
    ],
)
def test_bad_settings(tokenizer, changes, error, message):
    with pytest.raises(error, match=message):
        make(tokenizer, **changes)


def test_bad_sampling():
    with pytest.raises(ValueError, match="temperature=-1"):
        Sampling(-1, 5)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        Sampling(0.0, 0)
