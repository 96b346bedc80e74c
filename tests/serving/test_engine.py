"""The engine: each reply is what its row would be alone, whoever else is in the batch, and whoever leaves it."""

from __future__ import annotations

import queue
import threading

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate_from_prefix
from lit_cartridges.serving.choice import ScoreChanges
from lit_cartridges.serving.engine import LocalEngine
from lit_cartridges.serving.job import EngineError, Job, Token, row_seed
from lit_cartridges.serving.residents import Resident
from tests.tiny_models import tiny_config_model, tiny_model

STOP = 7
PREFIXES = [list(range(3, 33)), [5 + i * i % 60 for i in range(41)], list(range(60, 20, -1))]


def resident_of(model, at: int | None, *, biased: bool = False) -> Resident | None:
    if at is None:
        return None
    prefix = prefill(model, PREFIXES[at])
    if biased:
        draws = torch.Generator().manual_seed(at)
        prefix = *prefix, [3 * torch.randn(x.shape[:2], generator=draws) for x in prefix[0]]
    return Resident(key=((str(at), (0, 0, 0)),), prefix=prefix, num_tokens=len(PREFIXES[at]), nbytes=0)


class Asked:
    """A job and what came of it."""

    def __init__(self, engine: LocalEngine, prompt: list[int], resident: Resident | None, **options) -> None:
        self.came: queue.Queue = queue.Queue()
        self.over = threading.Event()
        known = {"n": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0, "max_new_tokens": 12, "logprobs": None}
        self.job = Job(
            prompt=prompt, resident=resident, tell=self.came.put, ended=self.over.set, **(known | options)
        )
        engine.submit(self.job)

    def tokens(self, count: int | None = None) -> list[list[Token]]:
        """Of each row, all or the first ones."""
        rows: list[list[Token]] = [[] for _ in range(self.job.n)]
        while (
            count is None and not all(row and row[-1].end for row in rows) or count and len(rows[0]) < count
        ):
            what = self.came.get(timeout=60)
            if isinstance(what, EngineError):
                raise what
            for token in what:
                rows[token.index].append(token)
        return rows

    def ids(self) -> list[list[int]]:
        return [[token.token_id for token in row] for row in self.tokens()]


@pytest.fixture
def engine_of():
    begun = []

    def make(model, **options) -> LocalEngine:
        engine = LocalEngine(
            model, stop_token_ids=[STOP], **({"max_rows": 8, "max_kv_tokens": 4096} | options)
        )
        engine.start()
        begun.append(engine)
        return engine

    yield make
    for engine in begun:
        engine.stop()
        engine.join(30)


def alone(model, prompt, resident, max_new_tokens=12, **options) -> list[int]:
    keys, values, *biases = (None, None) if resident is None else resident.prefix
    options |= {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": STOP, "pad_token_id": 0}
    options["biases"] = biases[0] if biases else None
    out = generate_from_prefix(model, keys, values, torch.tensor([prompt]), **options)
    return out[0, len(prompt) :].tolist()


def prompts(count: int) -> list[list[int]]:
    return [[40 + i, *range(20 + i, 21 + i + 3 * i % 7)] for i in range(count)]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
def test_rows_behind_different_cartridges_are_what_they_are_alone(name, engine_of):
    model = tiny_model(name)
    engine = engine_of(model, max_rows=3)
    held = [resident_of(model, at) for at in (0, 1, 2, None)] + [resident_of(model, 1, biased=True)]
    asked = [
        Asked(engine, prompt, held[i % 5], max_new_tokens=5 + 4 * i % 17)
        for i, prompt in enumerate(prompts(14))
    ]
    for i, (prompt, one) in enumerate(zip(prompts(14), asked, strict=True)):
        assert one.ids() == [alone(model, prompt, held[i % 5], 5 + 4 * i % 17)]
        assert one.over.wait(10)
    pairs = [[alone(model, prompt, one) for prompt in prompts(14)] for one in (held[1], held[4])]
    assert pairs[0] != pairs[1], "the biases matter"
    assert engine.rows == engine.waiting == 0


CHANGES = ScoreChanges(presence=1.5, frequency=0.5, added={11: -100.0, 12: 2.0})


def test_scores_are_changed_by_what_was_said_and_told_as_they_were(llama, engine_of):
    engine, held, prompt = engine_of(llama), resident_of(llama, 0), [40, 41]

    def naive(input_ids, scores):
        said = torch.bincount(input_ids[0, len(prompt) :], minlength=scores.shape[-1])
        changed = scores - 1.5 * (said > 0) - 0.5 * said
        changed[0, 11] -= 100.0
        changed[0, 12] += 2.0
        return changed

    beside = Asked(engine, prompt, held, logprobs=1)
    changed = Asked(engine, prompt, held, logprobs=1, changes=CHANGES)
    assert beside.ids() == [alone(llama, prompt, held)]
    (tokens,) = changed.tokens()
    ids = [token.token_id for token in tokens]
    assert ids == alone(llama, prompt, held, logits_processor=LogitsProcessorList([naive]))
    assert ids != alone(llama, prompt, held)
    plain = dense(llama, held, prompt + ids)[len(prompt) - 1 : -1]
    told = [token.noted.logprob for token in tokens]
    assert told == pytest.approx([row[token] for row, token in zip(plain, ids, strict=True)], abs=1e-4)


def test_a_model_whose_rotation_knows_the_length_answers_one_job_at_a_time(engine_of):
    scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = tiny_config_model("llama", rope_parameters=scaled, max_position_embeddings=64)
    engine = engine_of(model)
    held = [resident_of(model, at) for at in (0, None)]
    asked = [Asked(engine, prompt, held[i % 2]) for i, prompt in enumerate(prompts(5))]
    for i, (prompt, one) in enumerate(zip(prompts(5), asked, strict=True)):
        assert one.ids() == [alone(model, prompt, held[i % 2])]


def test_a_seed_decides_a_reply_whoever_else_is_there(llama, engine_of):
    engine = engine_of(llama)
    held = resident_of(llama, 0)
    sampled = {"temperature": 1.0, "seed": 5, "n": 3}
    first = Asked(engine, [40, 41], held, **sampled).ids()
    crowd = [Asked(engine, prompt, resident_of(llama, 1), temperature=1.0, seed=9) for prompt in prompts(5)]
    assert Asked(engine, [40, 41], held, **sampled).ids() == first
    assert len({tuple(row) for row in first}) > 1, "rows of one seed differ"
    assert Asked(engine, [40, 41], held, **(sampled | {"seed": 6})).ids() != first
    for one in crowd:
        one.ids()


def dense(model, resident, ids: list[int]) -> np.ndarray:
    """Log-probabilities of each next token, from one forward call."""
    with torch.no_grad(), reads_prefixes(model):
        keys, values = (None, None) if resident is None else resident.prefix
        start = 0 if keys is None else keys[0].shape[1]
        positions = torch.arange(start, start + len(ids))[None]
        reading = Reading(keys=keys, values=values)
        logits = model(torch.tensor([ids]), position_ids=positions, use_cache=False, reading=reading).logits[
            0
        ]
    return logits.log_softmax(-1).numpy()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_log_probabilities_are_the_models(llama, engine_of, temperature):
    engine, held, prompt = engine_of(llama), resident_of(llama, 1), [40, 41, 42]
    others = [Asked(engine, one, None, logprobs=None) for one in prompts(3)]
    (row,) = Asked(engine, prompt, held, logprobs=4, temperature=temperature, seed=3).tokens()
    ids = [token.token_id for token in row]
    for token, expected in zip(row, dense(llama, held, [*prompt, *ids])[len(prompt) - 1 :], strict=False):
        assert token.noted is not None
        assert token.noted.logprob == pytest.approx(expected[token.token_id], abs=1e-4)
        order = np.argsort(-expected)[:4]
        assert [i for i, _ in token.noted.top] == order.tolist()
        np.testing.assert_allclose([x for _, x in token.noted.top], expected[order], atol=1e-4)
    for one in others:
        assert all(token.noted is None for token in one.tokens()[0])


def test_top_p_takes_the_likeliest_alone(llama, engine_of):
    engine, prompt = engine_of(llama), [40, 41, 42]
    greedy = Asked(engine, prompt, None).ids()
    assert Asked(engine, prompt, None, temperature=1.0, top_p=1e-9).ids() == greedy
    first = np.exp(dense(llama, None, prompt)[-1])
    order = np.argsort(-first)
    allowed = set(order[: 1 + int(np.searchsorted(np.cumsum(first[order]), 0.6))].tolist())
    seen = set()
    for seed in range(40):
        rows = Asked(engine, prompt, None, temperature=1.0, top_p=0.6, seed=seed, n=8, max_new_tokens=1).ids()
        seen |= {row[0] for row in rows}
    assert seen <= allowed and len(seen) > len(allowed) / 2


def test_tokens_that_the_makers_ban_stay_banned(engine_of):
    model = tiny_config_model("llama")
    first = alone(model, [40, 41], None)
    model.generation_config.suppress_tokens = [first[0]]
    (reply,) = Asked(engine_of(model), [40, 41], None).ids()
    assert reply == alone(model, [40, 41], None) != first and first[0] not in reply


def test_who_is_cancelled_leaves_and_others_go_on(llama):
    engine = LocalEngine(llama, stop_token_ids=[], max_rows=2, max_kv_tokens=4096)
    engine.start()
    try:
        long = Asked(engine, [40, 41], resident_of(llama, 0), max_new_tokens=400)
        other = Asked(engine, [42], None, max_new_tokens=30)
        waiting = Asked(engine, [43], None, max_new_tokens=400)
        long.tokens(3)
        engine.cancel(waiting.job)
        engine.cancel(long.job)
        assert long.over.wait(20) and waiting.over.wait(20)
        assert len(other.ids()[0]) == 30 and len(long.came.queue) < 390 and waiting.came.empty()
        engine.cancel(long.job)  # once more, and after its end
        assert len(Asked(engine, [44], None, max_new_tokens=3).ids()[0]) == 3
    finally:
        engine.stop()
        engine.join(30)


def test_the_batch_never_takes_more_than_it_may(llama, engine_of):
    engine = engine_of(llama, max_rows=8, max_kv_tokens=120)
    most = []
    real = engine._step

    def step():
        cache = engine._batch.steps.cache
        most.append(cache.lines * cache.places)
        real()

    engine._step = step
    assert engine.holds(n=2, reach=60) and not engine.holds(n=2, reach=61) and not engine.holds(n=9, reach=1)
    shapes = [(1, 100), (8, 5), (1, 110), (3, 30), (2, 50), (1, 1)]
    asked = [Asked(engine, [40 + i], None, n=n, max_new_tokens=new) for i, (n, new) in enumerate(shapes)]
    for i, (one, (n, new)) in enumerate(zip(asked, shapes, strict=True)):
        assert one.ids() == [alone(llama, [40 + i], None, new)] * n
    assert most and max(most) <= 120


def test_a_step_that_fails_fails_its_jobs_and_no_later_one(llama, engine_of):
    engine = engine_of(llama)
    broken = resident_of(llama, 0)
    broken.prefix = broken.prefix[0], [x[:, :, :3] for x in broken.prefix[1]]  # values of another shape
    with pytest.raises(EngineError, match="the engine failed"):
        Asked(engine, [40, 41], broken).tokens()
    assert Asked(engine, [40, 41], None).ids() == [alone(llama, [40, 41], None)] and engine.alive


def test_scores_that_are_no_numbers_are_no_answer(llama, engine_of):
    engine = engine_of(llama)
    held = resident_of(llama, 0)
    held.prefix = [x * 1e38 for x in held.prefix[0]], [x * 1e38 for x in held.prefix[1]]
    with pytest.raises(EngineError, match="no numbers"):
        Asked(engine, [40, 41], held).tokens()
    assert Asked(engine, [40, 41], None).ids() == [alone(llama, [40, 41], None)]


def test_stopping_ends_all_jobs(llama, engine_of):
    engine = engine_of(llama, max_rows=1)
    asked = [Asked(engine, [40 + i], None, max_new_tokens=400) for i in range(3)]
    engine.stop("the server is stopping")
    for one in asked:
        assert one.over.wait(20)
        with pytest.raises(EngineError, match="stopping"):
            one.tokens()
    with pytest.raises(EngineError):
        Asked(engine, [40], None)
    assert not engine.alive


def test_seeds_of_rows_are_their_own():
    assert len({row_seed(seed, index) for seed in (-1, 0, 1, 2**63 - 1) for index in range(4)}) == 16
