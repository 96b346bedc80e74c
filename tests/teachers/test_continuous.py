"""Talks about several chunks share a batch, and each reply is what it would be alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.models.position_limit import rotates_by_length
from lit_cartridges.teachers.teacher import Request, Sampling, TeacherError
from tests.teachers.test_local import STOP, teacher_of
from tests.tiny_models import tiny_config_model

QUESTION, ANSWER = Sampling(1.0, 9), Sampling(0.0, 14)
CHUNKS = [list(range(3, 33)), [], [5 + i * i % 60 for i in range(41)], list(range(60, 20, -1))]
ROWS = [3, 4, 1, 2]


def prompts_of(chunk: int) -> list[list[int]]:
    return [[40 + chunk + row + i for i in range(1 + (3 * row + chunk) % 5)] for row in range(ROWS[chunk])]


def request(chunk: int, sampling: Sampling = QUESTION, **changes) -> Request:
    prompts = prompts_of(chunk)
    return Request(
        **{
            "context_ids": CHUNKS[chunk],
            "prompts": prompts,
            "sampling": sampling,
            "seeds": [100 * chunk + row for row in range(len(prompts))],
            **changes,
        }
    )


def talk(chunk: int, told: list | None = None):
    """Asks, and answers what came, as self-study does."""
    asked = yield request(chunk)
    told_prompts = [p + c.token_ids.tolist() for p, c in zip(prompts_of(chunk), asked, strict=True)]
    answered = yield request(chunk, ANSWER, prompts=told_prompts, top_k=4 + chunk % 2, min_mass=1.0)
    if told is not None:
        told.append(chunk)
    return [(q.token_ids.tolist(), a) for q, a in zip(asked, answered, strict=True)]


def naive_row(model, ids: list[int], sampling: Sampling, seed: int) -> tuple[list[int], np.ndarray]:
    """A plain loop without any cache: the reply, and the log-probabilities [tokens, vocabulary]."""
    draws = np.random.Generator(np.random.Philox(seed)).random(sampling.max_new_tokens)
    reply, rows = [], []
    for draw in draws:
        with torch.no_grad():
            logits = model(torch.tensor([ids + reply]), use_cache=False).logits[0, -1]
        rows.append(logits.log_softmax(-1).numpy())
        if sampling.temperature:
            cumulative = (logits / sampling.temperature).softmax(-1).double().cumsum(-1).numpy()
            reply.append(int(np.searchsorted(cumulative, draw * cumulative[-1], side="right")))
        else:
            reply.append(int(logits.argmax()))
        if reply[-1] == STOP:
            break
    return reply, np.stack(rows)


@pytest.fixture
def calls_of():
    """Counts the tokens of every call of a model, [rows, tokens]."""
    handles = []

    def count(model) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []

        def seen(_, args, keywords):
            shapes.append(tuple((args[0] if args else keywords["input_ids"]).shape))

        handles.append(model.base_model.register_forward_pre_hook(seen, with_kwargs=True))
        return shapes

    yield count
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("max_rows", [3, 64])
def test_rows_of_different_chunks_are_those_of_the_plain_model(model, max_rows):
    teacher = teacher_of(model, max_rows=max_rows)
    for chunk, pairs in enumerate(teacher.converse(talk(c) for c in range(len(CHUNKS)))):
        for row, (question, answer) in enumerate(pairs):
            prompt = CHUNKS[chunk] + prompts_of(chunk)[row]
            assert question == naive_row(model, prompt, QUESTION, 100 * chunk + row)[0]
            reply, logprobs = naive_row(model, prompt + question, ANSWER, 0)
            assert answer.token_ids.tolist() == reply
            ids, values = answer.top_logprobs.dense()
            assert ids.shape[1] == 4 + chunk % 2
            np.testing.assert_allclose(values, np.take_along_axis(logprobs, ids, 1), atol=2e-4)


def test_any_batch_and_any_order_give_the_same_tokens(llama):
    def told(order, **options) -> dict[int, list]:
        pairs = teacher_of(llama, **options).converse(talk(c) for c in order)
        return {
            chunk: [(q, a.token_ids.tolist(), a.top_logprobs.dense()[1]) for q, a in of_chunk]
            for chunk, of_chunk in zip(order, pairs, strict=True)
        }

    alone: dict[int, list] = {}
    for chunk in range(len(CHUNKS)):
        alone |= told([chunk], max_rows=1)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]):
        for max_rows in (1, 2, 5, 7, 64):
            together = told(order, max_rows=max_rows)
            for chunk, pairs in alone.items():
                for (q, a, values), (q2, a2, values2) in zip(pairs, together[chunk], strict=True):
                    assert (q, a) == (q2, a2)
                    np.testing.assert_allclose(values, values2, atol=2e-5)


def test_rows_that_have_ended_make_room_for_others(llama, calls_of):
    model, talks = llama, list(range(len(CHUNKS))) * 6
    shapes = calls_of(model)
    together = list(teacher_of(model, max_rows=8).converse(talk(c) for c in talks))
    batches = [rows for rows, tokens in shapes if tokens == 1]
    assert max(batches) == 8 and np.mean(batches) > 5
    steps = len(shapes)
    shapes.clear()
    apart = [next(teacher_of(model, max_rows=8).converse([talk(c)])) for c in talks]
    assert steps < 0.6 * len(shapes)
    for a, b in zip(together, apart, strict=True):
        assert [(q, r.token_ids.tolist()) for q, r in a] == [(q, r.token_ids.tolist()) for q, r in b]


def test_chunks_are_read_once_and_only_those_under_way_are_held(llama, calls_of):
    chunks = [[3 + (i * (n + 2)) % 90 for i in range(50 + n)] for n in range(30)]

    def asked(chunk):
        prompts = [[40 + i] for i in range(4)]
        for sampling in (QUESTION, ANSWER):
            yield Request(context_ids=chunk, prompts=prompts, sampling=sampling, seeds=range(4))
            held.append(len(teacher._contexts._read))

    teacher, held, shapes = teacher_of(llama, max_rows=8), [], calls_of(llama)
    list(teacher.converse(map(asked, chunks)))
    assert sorted(tokens for _, tokens in shapes if tokens > 1) == [len(chunk) for chunk in chunks]
    assert 2 <= max(held) <= 2 * 8 // 4 + 1
    teacher.close()
    assert not teacher._contexts._read


@pytest.mark.parametrize("max_rows", [2, 64])
def test_a_chunk_that_does_not_fit_ends_the_talks_behind_it_alone(llama, max_rows):
    finished: list[int] = []

    def too_long():
        try:
            yield request(0, context_ids=[3] * 600)
        except TeacherError as error:
            raise TeacherError(f"the long one: {error}") from error

    results = teacher_of(llama, max_rows=max_rows).converse([talk(0, finished), too_long(), talk(2)])
    assert len(next(results)) == ROWS[0] and finished == [0]
    with pytest.raises(TeacherError, match="the long one: chunk and prompt take 60. tokens"):
        next(results)


def test_a_talk_may_ask_nothing_and_go_on_after_a_refusal(llama):
    def odd():
        assert (yield request(0, prompts=[], seeds=[])) == []
        try:
            yield request(0, context_ids=[3] * 600)
        except TeacherError:
            return len((yield request(2)))

    assert list(teacher_of(llama).converse([odd(), talk(0)]))[0] == ROWS[2]


def test_between_results_the_model_is_its_own_again(llama):
    before = llama(torch.tensor([CHUNKS[0]])).logits
    for _ in teacher_of(llama, max_rows=2).converse(talk(c) for c in range(3)):
        assert torch.equal(llama(torch.tensor([CHUNKS[0]])).logits, before)
        assert torch.is_grad_enabled()


def test_chunks_behind_what_a_cascade_kept_share_a_batch(llama):
    corpus = [3 + (i * i) % 60 for i in range(90)]

    def teacher(max_rows):
        made = teacher_of(
            llama, max_rows=max_rows, cascade=CascadeOptions(total_tokens=36, cascades=2, stride_tokens=16)
        )
        made.expect_prefix(corpus, opening_tokens=2)
        return made

    def asked(chunk):
        completions = yield request(chunk, ANSWER, context_ids=corpus + CHUNKS[chunk])
        return [c.token_ids.tolist() for c in completions]

    order = [0, 2, 3]
    together = list(teacher(64).converse(map(asked, order)))
    assert together == [next(teacher(1).converse([asked(chunk)])) for chunk in order]


def test_what_the_models_makers_ban_stays_banned_whatever_the_prompts():
    model = copy.deepcopy(tiny_config_model("llama"))
    free = [c.token_ids.tolist() for c in next(teacher_of(model).converse([_given(request(0, ANSWER))]))]
    model.generation_config.suppress_tokens = sorted({reply[1] for reply in free} - {STOP})
    model.generation_config.begin_suppress_tokens = sorted({reply[0] for reply in free})
    completions = next(teacher_of(model).converse([_given(request(0, ANSWER, top_k=3))]))
    for prompt, completion in zip(prompts_of(0), completions, strict=True):
        ids = torch.tensor([CHUNKS[0] + prompt])
        expected = model.generate(ids, max_new_tokens=14, do_sample=False, eos_token_id=STOP, pad_token_id=0)
        assert completion.token_ids.tolist() == expected[0, ids.shape[1] :].tolist()
        assert completion.token_ids[0] not in model.generation_config.begin_suppress_tokens


def test_models_whose_rotation_depends_on_the_longest_row_hold_one_talk_at_a_time(calls_of):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny_config_model("llama", rope_parameters=rope)
    assert rotates_by_length(model.config) and not rotates_by_length(tiny_config_model("llama").config)
    shapes = calls_of(model)
    list(teacher_of(model).converse(talk(c) for c in range(len(CHUNKS))))
    assert max(rows for rows, _ in shapes) == max(ROWS)


def _given(request: Request):
    return (yield request)
