"""The in-process teacher answers as a plain loop over the unmodified model does, whatever shares its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling, TeacherError
from tests.tiny_models import VOCAB, tiny_model

CONTEXT = list(range(3, 33))
PROMPTS = [[40, 41, 42], [50], [60, 61, 62, 63, 64]]
SEEDS = [11, 12, 13]
STOP = 7


def teacher_of(model, **options) -> LocalTeacher:
    teacher = LocalTeacher(**options)
    teacher.bind(model, None)
    teacher.stop_token_ids = (STOP,)
    return teacher


def naive_greedy(model, ids: list[int], steps: int) -> tuple[list[int], list[torch.Tensor]]:
    replies, rows = [], []
    for _ in range(steps):
        with torch.no_grad():
            logits = model(torch.tensor([ids + replies]), use_cache=False).logits[0, -1]
        rows.append(logits.log_softmax(-1))
        replies.append(int(logits.argmax()))
        if replies[-1] == STOP:
            break
    return replies, rows


def test_greedy_replies_and_log_probabilities_are_those_of_the_plain_model(model):
    completions = teacher_of(model).complete(
        context_ids=CONTEXT, prompts=PROMPTS, sampling=Sampling(0.0, 12), seeds=SEEDS, top_k=5, min_mass=1.0
    )
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        replies, rows = naive_greedy(model, CONTEXT + prompt, 12)
        assert completion.token_ids.tolist() == replies
        ids, logprobs = completion.top_logprobs.dense()
        expected = torch.stack(rows).topk(5).values.numpy()
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
        assert ids[:, 0].tolist() == replies


def test_a_sampled_reply_depends_on_its_seed_alone(llama):
    options = {"context_ids": CONTEXT, "sampling": Sampling(1.0, 20)}
    together = teacher_of(llama).complete(prompts=PROMPTS, seeds=SEEDS, **options)
    apart = [
        teacher_of(llama).complete(prompts=[p], seeds=[s], **options)[0]
        for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    in_turns = teacher_of(llama, max_rows=2).complete(prompts=PROMPTS, seeds=SEEDS, **options)
    for a, b, c in zip(together, apart, in_turns, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist() == c.token_ids.tolist()
    other = teacher_of(llama).complete(prompts=PROMPTS, seeds=[1, 2, 3], **options)
    assert [c.token_ids.tolist() for c in other] != [c.token_ids.tolist() for c in together]


def test_samples_follow_the_models_distribution(llama):
    rows = 4000
    completions = teacher_of(llama, max_rows=rows).complete(
        context_ids=CONTEXT, prompts=[[40]] * rows, sampling=Sampling(1.0, 1), seeds=range(rows)
    )
    counts = np.bincount([int(c.token_ids[0]) for c in completions], minlength=VOCAB) / rows
    with torch.no_grad():
        expected = llama(torch.tensor([[*CONTEXT, 40]])).logits[0, -1].softmax(-1).numpy()
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max() / rows)


def test_a_context_is_prefilled_once_for_questions_and_answers(llama):
    teacher, calls = teacher_of(llama), []
    handle = llama.base_model.register_forward_pre_hook(lambda m, a, k: calls.append(a), with_kwargs=True)
    try:
        for _ in range(2):
            teacher.complete(context_ids=CONTEXT, prompts=PROMPTS, sampling=Sampling(0.0, 1), seeds=SEEDS)
    finally:
        handle.remove()
    assert len(calls) == 5  # one prefill, then for each call the prompts and one step


def test_without_a_context_it_is_the_plain_model(llama):
    completion = teacher_of(llama).complete(
        context_ids=[], prompts=[[40, 41]], sampling=Sampling(0.0, 8), seeds=[0]
    )[0]
    assert completion.token_ids.tolist() == naive_greedy(llama, [40, 41], 8)[0]


def test_a_context_beyond_the_models_positions_is_refused():
    with pytest.raises(TeacherError, match="max_position_embeddings=512; lower the chunker's max_tokens"):
        teacher_of(tiny_model("llama")).complete(
            context_ids=[3] * 512, prompts=[[4]], sampling=Sampling(0.0, 1), seeds=[0]
        )


def test_an_unbound_teacher_says_so():
    with pytest.raises(TeacherError, match="no model yet"):
        LocalTeacher().complete(context_ids=[], prompts=[[1]], sampling=Sampling(), seeds=[0])


LONG = [3 + (i * i) % 90 for i in range(700)]  # the model has 512 positions
CASCADE = CascadeOptions(total_tokens=36, cascades=4, stride_tokens=32)


def test_a_chunk_beyond_the_context_is_answered_from_what_a_cascade_keeps_of_it(llama):
    """Replies are those of a plain loop behind the cascade's content, held as a cartridge."""
    ours = teacher_of(llama, cascade=CASCADE).complete(
        context_ids=LONG, prompts=PROMPTS, sampling=Sampling(0.0, 6), seeds=SEEDS, top_k=5, min_mass=1.0
    )
    cache = CASCADE.new_cache(llama.config)
    cascade_prefill(llama, cache, torch.tensor([LONG]))
    kept = cache.to_cartridge(llama)
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        replies = []
        for _ in completion.token_ids:
            past = kept.as_cache(batch_size=1)
            with torch.no_grad():
                logits = llama(torch.tensor([prompt + replies]), **cache_argument(past)).logits[0, -1]
            replies.append(int(logits.argmax()))
        assert completion.token_ids.tolist() == replies
        assert completion.top_logprobs.shape == (len(replies), 5)


def test_a_chunk_that_fits_is_read_whole_with_or_without_a_cascade(llama):
    options = {"context_ids": CONTEXT, "prompts": PROMPTS, "sampling": Sampling(0.0, 6), "seeds": SEEDS}
    with_it, without = (teacher_of(llama, cascade=c).complete(**options) for c in (CASCADE, None))
    assert [c.token_ids.tolist() for c in with_it] == [c.token_ids.tolist() for c in without]


def test_without_a_cascade_a_chunk_beyond_the_context_is_refused(llama):
    assert not teacher_of(llama).reads_any_length and teacher_of(llama, cascade=CASCADE).reads_any_length
    with pytest.raises(
        TeacherError, match="703 tokens.*max_position_embeddings=512.*give the teacher a cascade"
    ):
        teacher_of(llama).complete(
            context_ids=LONG, prompts=PROMPTS[:1], sampling=Sampling(0.0, 2), seeds=[1]
        )


OPENING = CONTEXT[:2]
CORPUS = [OPENING[-1] + (i * i) % 60 for i in range(90)]
CHUNKS = [CORPUS[10:40], CORPUS[50:70]]
LOSING = CascadeOptions(total_tokens=36, cascades=2, sink_tokens=1, stride_tokens=16)
LOSSLESS = CascadeOptions(total_tokens=100, cascades=4, stride_tokens=16)


def taught_behind_the_corpus(model, cascade: CascadeOptions | None, **options) -> LocalTeacher:
    teacher = teacher_of(model, cascade=cascade, **options)
    teacher.expect_prefix(OPENING + CORPUS, opening_tokens=len(OPENING))
    return teacher


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "gemma3_text"])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_behind_a_cascade_that_loses_nothing_it_answers_as_with_corpus_and_chunk_in_full(name, chunk):
    options = {"context_ids": OPENING + CORPUS + chunk, "prompts": PROMPTS, "seeds": SEEDS}
    options |= {"sampling": Sampling(0.0, 8), "top_k": 5, "min_mass": 1.0}
    model = tiny_model(name)
    ours = taught_behind_the_corpus(model, LOSSLESS).complete(**options)
    plain = teacher_of(model).complete(**options)
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
        for a, b in zip(mine.top_logprobs.dense(), theirs.top_logprobs.dense(), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_chunk_is_read_in_full_behind_what_a_cascade_kept_of_the_corpus(name):
    """Against a plain loop with transformers' own cache; the opening is among the sinks, though the options have one sink."""
    model, chunk = tiny_model(name), CHUNKS[0]
    ours = taught_behind_the_corpus(model, LOSING).complete(
        context_ids=OPENING + CORPUS + chunk, prompts=PROMPTS, sampling=Sampling(0.0, 6), seeds=SEEDS
    )
    cache = LOSING.keeping(2).new_cache(model.config)
    cascade_prefill(model, cache, torch.tensor([OPENING + CORPUS]))
    kept = cache.to_cartridge(model)
    assert kept.num_tokens == 36 and cache.layers[0].shape.sink_tokens == 2
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        replies: list[int] = []
        for _ in completion.token_ids:
            with torch.no_grad():
                ids = torch.tensor([chunk + prompt + replies])
                logits = model(ids, **cache_argument(kept.as_cache(batch_size=1))).logits[0, -1]
            replies.append(int(logits.argmax()))
        assert completion.token_ids.tolist() == replies


def test_behind_a_corpus_too_a_sampled_reply_depends_on_its_seed_alone(llama):
    options = {"context_ids": OPENING + CORPUS + CHUNKS[0], "sampling": Sampling(1.0, 20)}
    together = taught_behind_the_corpus(llama, LOSING).complete(prompts=PROMPTS, seeds=SEEDS, **options)
    in_turns = taught_behind_the_corpus(llama, LOSING, max_rows=1).complete(
        prompts=PROMPTS, seeds=SEEDS, **options
    )
    assert [c.token_ids.tolist() for c in together] == [c.token_ids.tolist() for c in in_turns]
    after_another = taught_behind_the_corpus(llama, LOSING)
    after_another.complete(
        prompts=PROMPTS[:1], seeds=SEEDS[:1], **(options | {"context_ids": OPENING + CORPUS + CHUNKS[1]})
    )
    again = after_another.complete(prompts=PROMPTS, seeds=SEEDS, **options)
    assert [c.token_ids.tolist() for c in together] == [c.token_ids.tolist() for c in again]


def test_the_corpus_is_streamed_once_for_all_chunks_and_each_chunk_read_once(llama):
    teacher, calls = taught_behind_the_corpus(llama, LOSING), []
    handle = llama.base_model.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append((args[0] if args else kwargs["input_ids"]).shape[1]),
        with_kwargs=True,
    )
    try:
        for chunk in CHUNKS:
            for _ in range(2):  # questions, then answers
                teacher.complete(
                    context_ids=OPENING + CORPUS + chunk,
                    prompts=PROMPTS[:1],
                    sampling=Sampling(0.0, 1),
                    seeds=SEEDS[:1],
                )
    finally:
        handle.remove()
    # 92 tokens in strides of 16, then a chunk, and twice a prompt and its last token.
    assert calls == [16] * 5 + [12] + [30, 2, 1, 2, 1] + [20, 2, 1, 2, 1]


def test_a_context_that_does_not_begin_with_the_corpus_is_read_as_ever(llama):
    options = {"context_ids": CONTEXT, "prompts": PROMPTS, "sampling": Sampling(0.0, 6), "seeds": SEEDS}
    ours, plain = (
        t.complete(**options) for t in (taught_behind_the_corpus(llama, LOSING), teacher_of(llama))
    )
    assert [c.token_ids.tolist() for c in ours] == [c.token_ids.tolist() for c in plain]


def test_an_opening_that_leaves_a_cascade_no_place_is_refused(llama):
    with pytest.raises(ValueError, match="total_tokens=36 leaves no place behind 36 tokens that stay"):
        teacher_of(llama, cascade=LOSING).expect_prefix(LONG, opening_tokens=36)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"prompts": [[5], []]}, "a prompt has no tokens"),
        ({"top_k": 1000}, "top_k=1000 is more than the model's"),
    ],
)
def test_requests_that_cannot_be_answered_are_named(llama, wrong, named):
    asked = {
        "context_ids": [3, 4],
        "prompts": [[5], [6]],
        "sampling": Sampling(0.0, 2),
        "seeds": [0, 1],
        "top_k": 2,
    }
    with pytest.raises(TeacherError, match=named):
        teacher_of(llama).complete(**asked | wrong)
