"""A cascade as a system: the dense answer while nothing was lost, the one-question loop after, any length of corpus."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadingCache, cascade_prefill, reads_cascades
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import user
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import CASCADE, STREAMING_LLM, icl, streamed
from tests.evals.words import WordTask, sentence, word_renderer
from tests.tiny_models import tiny_model

NEW = 6
SMALL = CascadeOptions(total_tokens=20, cascades=2, sink_tokens=4, stride_tokens=16)


def ids_of(num_words: int) -> list[int]:
    return word_renderer().tokenizer.encode(sentence(num_words, 7), add_special_tokens=False)


def asked(model, system, **options):
    return evaluate(
        model,
        word_renderer(),
        system,
        WordTask(num_questions=5),
        max_new_tokens=NEW,
        **({"batch_size": 3} | options),
    )


@pytest.mark.parametrize("name", [CASCADE, STREAMING_LLM])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt_neox"])
def test_a_cache_that_loses_nothing_answers_as_icl_does(architecture, name):
    model, ids = tiny_model(architecture), ids_of(33)
    options = CascadeOptions(total_tokens=124, cascades=2, sink_tokens=4, stride_tokens=16)
    mine = asked(model, streamed(name, model, word_renderer(), ids, options))
    theirs = asked(model, icl(model, word_renderer(), ids))
    assert [r.reply for r in mine.replies] == [r.reply for r in theirs.replies]
    assert mine.answer_log_likelihood == pytest.approx(theirs.answer_log_likelihood, abs=2e-4)
    assert mine.num_kv_tokens == theirs.num_kv_tokens == 34 and mine.system == name


@torch.no_grad()
def naive(model, cache: CascadingCache, question) -> tuple[str, list[float]]:
    """Greedy reply a token at a time, and the reference answer read behind its question; one row, no padding."""
    renderer = word_renderer()
    prompt, answer = (
        renderer.prompt_ids([user(question.prompt)]),
        renderer.tokenizer.encode(question.answer, add_special_tokens=False),
    )
    with reads_cascades(model):
        writing, reply, new = copy.deepcopy(cache), [], prompt
        while len(reply) < NEW:
            reply.append(int(model(torch.tensor([new]), **cache_argument(writing)).logits[0, -1].argmax()))
            new = reply[-1:]
            if reply[-1] == renderer.tokenizer.eos_token_id:
                reply.pop()
                break
        logits = model(torch.tensor([prompt + answer[:-1]]), **cache_argument(copy.deepcopy(cache))).logits[0]
    scores = logits[-len(answer) :].log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return renderer.tokenizer.decode(reply, skip_special_tokens=True).strip(), scores.tolist()


@pytest.mark.parametrize("name", [CASCADE, STREAMING_LLM])
def test_batched_questions_are_the_naive_loop_on_a_corpus_beyond_the_context(llama, name):
    ids = ids_of(700)  # the model has 512 positions
    system = streamed(name, llama, word_renderer(), ids, SMALL)
    cache = (SMALL if name == CASCADE else SMALL.streaming_llm()).new_cache(llama.config)
    cascade_prefill(llama, cache, torch.tensor([word_renderer().context_ids(ids)]))
    assert cache.method == ("StreamingLLM" if name == STREAMING_LLM else "cascading KV cache")
    result = asked(llama, system)
    expected = [naive(llama, cache, question) for question in WordTask(num_questions=5).questions()]
    assert [r.reply for r in result.replies] == [reply for reply, _ in expected]
    for reply, (_, scores) in zip(result.replies, expected, strict=True):
        assert reply.log_likelihood == pytest.approx(sum(scores) / len(scores), abs=2e-4)
    assert (result.num_kv_tokens, result.kv_bytes) == (20, cache.nbytes)
    assert result.prefill_s > 0


def test_cascade_and_streaming_llm_differ_once_something_was_lost(llama):
    mine, theirs = (
        asked(llama, streamed(name, llama, word_renderer(), ids_of(90), SMALL))
        for name in (CASCADE, STREAMING_LLM)
    )
    assert mine.answer_log_likelihood != theirs.answer_log_likelihood
    assert mine.num_kv_tokens == theirs.num_kv_tokens and mine.kv_bytes == theirs.kv_bytes


def test_questions_change_neither_the_system_nor_the_model(llama):
    system, before = (
        streamed(CASCADE, llama, word_renderer(), ids_of(60), SMALL),
        llama.config._attn_implementation,
    )
    keys, seen = system.cache.layers[1].keys.clone(), system.cache.get_seq_length()
    first = asked(llama, system)
    again = asked(llama, system, batch_size=5)
    assert [r.reply for r in first.replies] == [r.reply for r in again.replies]
    assert torch.equal(keys, system.cache.layers[1].keys) and system.cache.get_seq_length() == seen
    assert llama.config._attn_implementation == before


def test_sizes_that_the_model_has_no_positions_for_are_refused(llama):
    with pytest.raises(ValueError, match="max_position_embeddings=512; their sum must be at most 512"):
        streamed(
            CASCADE, llama, word_renderer(), ids_of(9), CascadeOptions(total_tokens=500, stride_tokens=64)
        )
