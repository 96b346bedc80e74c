"""Batched, packed, prefix-shared evaluation gives what one question at a time gives on the unmodified model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.conversations.renderer import user
from lit_cartridges.evals.asked import asked, reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import ContextTooLong, System, icl, no_context, of_cartridge, truncated_icl
from lit_cartridges.evals.tasks.task import EvalError
from tests.evals.words import Answered, WordTask, sentence, word_renderer
from tests.tiny_models import tiny_model

NEW = 6
CORPUS = sentence(33, 7)


def corpus_ids() -> list[int]:
    return word_renderer().tokenizer.encode(CORPUS, add_special_tokens=False)


def naive(model, context: list[int], question) -> tuple[str, list[float]]:
    """Greedy reply and the reference answer's log-likelihoods, one whole unpadded forward call per token."""
    renderer = word_renderer()
    prompt = renderer.prompt_ids if context else renderer.bare_prompt_ids
    ids = context + prompt([user(question.prompt)])
    reply = []
    for _ in range(NEW):
        reply.append(int(model(torch.tensor([ids + reply]), use_cache=False).logits[0, -1].argmax()))
        if reply[-1] == renderer.tokenizer.eos_token_id:
            reply.pop()
            break
    scores, seen = [], list(ids)
    for token in renderer.tokenizer.encode(question.answer, add_special_tokens=False):
        logits = model(torch.tensor([seen]), use_cache=False).logits[0, -1]
        scores.append(float(logits.log_softmax(-1)[token]))
        seen.append(token)
    return renderer.tokenizer.decode(reply, skip_special_tokens=True).strip(), scores


@pytest.mark.parametrize("kind", ["icl", "no_context"])
@torch.no_grad()
def test_it_is_the_naive_loop(model, kind):
    renderer, task = word_renderer(), WordTask(num_questions=5)
    system = icl(model, renderer, corpus_ids()) if kind == "icl" else no_context()
    context = renderer.context_ids(corpus_ids()) if kind == "icl" else []
    result = evaluate(model, renderer, system, task, batch_size=3, max_new_tokens=NEW)
    expected = [naive(model, context, question) for question in task.questions()]
    assert [reply.reply for reply in result.replies] == [reply for reply, _ in expected]
    for reply, (_, scores) in zip(result.replies, expected, strict=True):
        assert reply.log_likelihood == pytest.approx(sum(scores) / len(scores), abs=2e-4)
    tokens = [score for _, scores in expected for score in scores]
    assert result.answer_log_likelihood == pytest.approx(sum(tokens) / len(tokens), abs=2e-4)
    assert result.num_kv_tokens == len(context) and result.num_questions == 5
    # Were the context not read, the two systems would agree.
    without = naive(model, [], task.questions()[-1])[1]
    assert (without != expected[-1][1]) == (kind == "icl")


@torch.no_grad()
def test_accuracy_and_its_standard_error_come_from_the_replies(llama):
    renderer = word_renderer()
    system = icl(llama, renderer, corpus_ids())
    prompts = [sentence(3, seed) for seed in range(8)]
    blank = Answered([(prompt, "w1") for prompt in prompts])
    replies = [r.reply for r in evaluate(llama, renderer, system, blank, max_new_tokens=NEW).replies]
    truth = [
        (p, reply if i < 6 else "w1 w1 w1 w1")
        for i, (p, reply) in enumerate(zip(prompts, replies, strict=True))
    ]
    result = evaluate(llama, renderer, system, Answered(truth), max_new_tokens=NEW)
    assert [reply.right for reply in result.replies] == [True] * 6 + [False] * 2
    assert result.accuracy == pytest.approx(0.75)
    assert result.accuracy_standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 8))


def test_replies_end_before_the_stop_token(llama):
    """The model's own favourite first token is made the stop token: every reply is then empty."""
    renderer = word_renderer()
    task = Answered([("w3 w4", "w1")])
    first = evaluate(llama, renderer, no_context(), task, max_new_tokens=1).replies[0].reply
    before = llama.generation_config.eos_token_id
    llama.generation_config.eos_token_id = renderer.tokenizer.convert_tokens_to_ids(first)
    try:
        assert evaluate(llama, renderer, no_context(), task, max_new_tokens=5).replies[0].reply == ""
    finally:
        llama.generation_config.eos_token_id = before


def test_a_cartridge_of_the_prefill_scores_as_the_prefill(llama):
    renderer, task = word_renderer(), WordTask()
    keys, values = prefill(llama, renderer.context_ids(corpus_ids()))
    system = of_cartridge("mine", Cartridge(keys, values), llama)
    ours = evaluate(llama, renderer, system, task, max_new_tokens=NEW)
    theirs = evaluate(llama, renderer, icl(llama, renderer, corpus_ids()), task, max_new_tokens=NEW)
    assert ours.replies == theirs.replies and ours.system == "mine"
    assert ours.num_kv_tokens == 34 and ours.kv_bytes == theirs.kv_bytes == 2 * 2 * 2 * 34 * 8 * 4


def test_bytes_are_those_of_the_dtype_that_the_model_reads(llama):
    keys, values = prefill(llama, [3, 4, 5])
    half = System(name="x", keys=[k.bfloat16() for k in keys], values=[v.bfloat16() for v in values])
    assert half.kv_bytes == System(name="x", keys=keys, values=values).kv_bytes // 2 == 2 * 2 * 2 * 3 * 8 * 2
    assert no_context().kv_bytes == no_context().num_kv_tokens == 0


def test_truncated_icl_reads_the_first_tokens_that_leave_room(llama):
    renderer, ids = word_renderer(), corpus_ids()
    reserve = reserve_tokens(renderer, WordTask().questions(), NEW)
    system = truncated_icl(llama, renderer, ids, reserve_tokens=reserve, max_context_tokens=40)
    assert system.num_kv_tokens == 40 - reserve > 3
    keys, _ = prefill(llama, renderer.context_ids(ids)[: 40 - reserve])
    torch.testing.assert_close(system.keys[1], keys[1])
    evaluate(llama, renderer, system, WordTask(), max_new_tokens=NEW)
    whole = truncated_icl(llama, renderer, ids, reserve_tokens=reserve)
    assert whole.num_kv_tokens == len(ids) + 1


def test_the_reserve_is_the_longest_prompt_and_the_longer_of_reply_and_answer():
    renderer = word_renderer()
    task = Answered([("w1 w2 w3", "w1"), ("w1", "w1 w2 w3 w4 w5 w6 w7 w8 w9")])
    around = len(renderer.prompt_ids([user("w1")])) - 1
    assert reserve_tokens(renderer, task.questions(), 4) == around + 1 + 9
    assert reserve_tokens(renderer, task.questions(), 20) == around + 3 + 20


def test_what_does_not_fit_the_context_is_refused(llama):
    renderer, ids = word_renderer(), corpus_ids() * 16
    with pytest.raises(
        ContextTooLong, match="icl: the corpus takes 529 tokens.* up to 9, and the context holds 512"
    ):
        icl(llama, renderer, ids, reserve_tokens=9)
    with pytest.raises(ContextTooLong, match="holds 30; use truncated_icl"):
        icl(llama, renderer, ids[:25], reserve_tokens=9, max_context_tokens=30)
    with pytest.raises(
        ContextTooLong, match="no place for the corpus in a context of 30; lower max_new_tokens"
    ):
        truncated_icl(llama, renderer, ids, reserve_tokens=29, max_context_tokens=30)
    with pytest.raises(
        ContextTooLong, match="x: 500 positions in front and up to .* max_position_embeddings=512"
    ):
        keys, values = prefill(llama, ids[:500])
        evaluate(llama, renderer, System(name="x", keys=keys, values=values), WordTask(), max_new_tokens=NEW)


def test_a_cartridge_for_another_model_is_refused(llama):
    keys, values = prefill(tiny_model("qwen3"), [3, 4, 5])
    with pytest.raises(ValueError, match="head_dim: 16 against 8"):
        of_cartridge("x", Cartridge(keys, values), llama)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Answered([]), {}, "task=Answered gives no questions"),
        (WordTask(), {"num_questions": 0}, "num_questions=0 must be at least 1, or null for all 7"),
        (WordTask(), {"batch_size": 0}, "batch_size=0"),
        (Answered([("w1", " ")]), {}, "reference answer ' ' comes to no tokens"),
    ],
)
def test_bad_settings(llama, task, options, message):
    with pytest.raises(EvalError, match=message):
        evaluate(llama, word_renderer(), no_context(), task, **options)


def test_the_model_is_left_as_it_was(llama):
    before, hooks = llama.config._attn_implementation, dict(llama._forward_pre_hooks)
    block = llama.model.layers[0]
    block.train()
    seen = []
    handle = block.register_forward_hook(lambda module, args, output: seen.append(module.training))
    state = torch.get_rng_state()
    try:
        evaluate(llama, word_renderer(), no_context(), WordTask(num_questions=1), max_new_tokens=2)
        assert seen and not any(seen), "the model is in eval mode while it answers"
        assert block.training and not llama.training
        assert llama.config._attn_implementation == before and dict(llama._forward_pre_hooks) == hooks
        assert torch.equal(state, torch.get_rng_state())
    finally:
        handle.remove()
        block.eval()


@pytest.mark.parametrize(("questions", "world_size"), [(7, 2), (8, 2), (1, 3), (5, 4)])
def test_processes_share_the_questions_and_stay_in_step(questions, world_size):
    shares = [
        asked(
            word_renderer(),
            WordTask(num_questions=questions).questions(),
            after_context=True,
            rank=r,
            world_size=world_size,
        )
        for r in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    assert sorted(one.index for share in shares for one in share if one.counted) == list(range(questions))


@pytest.mark.slow
def test_two_processes_find_what_one_finds(llama, tmp_path):
    command = [sys.executable, "-m", "tests.evals.two_processes", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parents[2])
    alone = evaluate(
        llama, word_renderer(), icl(llama, word_renderer(), corpus_ids()), WordTask(), max_new_tokens=NEW
    )
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for result in found:
        assert [r["reply"] for r in result["replies"]] == [r.reply for r in alone.replies]
        assert [r["prompt"] for r in result["replies"]] == [r.prompt for r in alone.replies]
        assert result["answer_log_likelihood"] == pytest.approx(alone.answer_log_likelihood, abs=1e-5)
        assert result["accuracy"] == alone.accuracy and result["num_questions"] == 7
    assert found[0]["seconds_per_answer"] == found[1]["seconds_per_answer"]
    assert found[0]["calls"] == found[1]["calls"] > 0, "all processes make the same number of forward calls"


def test_samples_are_averaged_within_a_question(llama):
    """Right is a reply of one certain first word: its share over many samples is the model's probability of it."""
    renderer, context = word_renderer(), corpus_ids()
    task, system = Answered([("w3 w4", "w1")] * 2), icl(llama, renderer, context)
    ids = renderer.context_ids(context) + renderer.prompt_ids([user("w3 w4")])
    chances = (llama(torch.tensor([ids])).logits[0, -1] / 2.0).softmax(-1)
    word = renderer.tokenizer.decode([int(chances[7:].argmax()) + 7])
    task = Answered([("w3 w4", word)] * 2)
    options = {"max_new_tokens": 1, "temperature": 2.0, "samples": 200}
    before = torch.get_rng_state()
    result = evaluate(llama, renderer, system, task, **options)
    assert torch.equal(torch.get_rng_state(), before)
    chance = float(chances[7:].max())
    shares = [reply.share_right for reply in result.replies]
    assert result.accuracy == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 400))
    assert result.accuracy == pytest.approx(sum(shares) / 2) and len(result.replies[0].others) == 199
    assert result.accuracy_standard_error == pytest.approx(abs(shares[0] - shares[1]) / 2)
    assert evaluate(llama, renderer, system, task, **options).replies == result.replies
    assert evaluate(llama, renderer, system, task, seed=1, **options).replies != result.replies
    with pytest.raises(EvalError, match="at a temperature above 0"):
        evaluate(llama, renderer, system, task, samples=2)
