"""Tokens per second of the largest batch: what every row reads, what fits, and what happens where memory runs out."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

from benchmarks import _serving_rows as serving_rows
from benchmarks import serving
from benchmarks._models import kv_bytes_per_token, random_llama, random_prefix
from benchmarks._serving_rows import (
    PRIVATE,
    SHARED,
    decode_private,
    largest,
    private_cache,
    ratios,
    throughput,
)
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.generation import generate_from_prefix
from tests.benchmarks.test_scripts import _keep_threads, run  # noqa: F401  the fixture is used by being here

HELD, ROWS = 9, 3


def first_logits(model, way, prefix):
    """[rows, vocabulary] of a decoded token behind this prefix [kv_heads, held, head_dim] per layer."""
    seen = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out[:, -1]))
    try:
        if way == PRIVATE:
            cache = private_cache(model, rows=ROWS, held=HELD, new=1)
            for index, layer in enumerate(cache.layers):
                for buffer, side in zip(layer.buffers, prefix, strict=True):
                    buffer[:, :, :HELD] = side[index]
            decode_private(model, cache, 1)
        else:
            first = torch.zeros(ROWS, 1, dtype=torch.long)
            generate_from_prefix(model, *prefix, first, max_new_tokens=1, do_sample=False, pad_token_id=0)
    finally:
        hook.remove()
    return seen[-1]  # before it, the self-check of a model that reads prefixes for the first time


def test_both_ways_read_every_position_that_is_held():
    """The same numbers from the same prefix, and others from one that differs at any single position."""
    model, prefix = random_llama("tiny").double(), random_prefix(random_llama("tiny"), HELD, spread=1.0)
    prefix = tuple([x.double() for x in side] for side in prefix)
    whole = {way: first_logits(model, way, prefix) for way in (PRIVATE, SHARED)}
    torch.testing.assert_close(whole[PRIVATE], whole[SHARED])
    for position in range(HELD):
        changed = tuple([x.clone() for x in side] for side in prefix)
        for value in changed[1]:
            value[:, position] += 1
        for way, logits in whole.items():
            moved = (first_logits(model, way, changed) - logits).abs().amax(1)
            assert (moved > 1e-6).all(), f"{way}: position {position} is not read by every row"


@pytest.mark.parametrize("way", [PRIVATE, SHARED])
@pytest.mark.parametrize("lost", [1, 5])
def test_a_side_that_reads_fewer_positions_is_refused(monkeypatch, way, lost):
    whole_cache, whole_prefix = private_cache, random_prefix
    monkeypatch.setattr(
        serving_rows, "private_cache", lambda model, *, held, **o: whole_cache(model, held=held - lost, **o)
    )
    monkeypatch.setattr(serving_rows, "random_prefix", lambda model, held: whole_prefix(model, held - lost))
    sizes = {"held": HELD, "new_tokens": 4, "free_bytes": 2**24, "max_rows": 2, "warm_ups": 0, "runs": 1}
    with pytest.raises(
        AssertionError, match=f"read {HELD + 4 - lost} positions, not 9 held and 4 of its own"
    ):
        throughput(random_llama("tiny"), way, **sizes)


def test_private_rows_read_what_a_cache_of_transformers_holds():
    model = random_llama("tiny")
    cache = private_cache(model, rows=3, held=10, new=4)
    plain = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        plain.update(layer.keys.clone(), layer.values.clone(), index)
    found, token = decode_private(model, cache, 4), torch.zeros(3, 1, dtype=torch.long)
    for step in range(4):
        logits = model(token, **cache_argument(plain), use_cache=True).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        assert token[:, 0].tolist() == found[:, step].tolist()
    assert torch.equal(decode_private(model, cache, 4), found), "a run begins where the one before began"


def test_the_largest_batch_is_what_fits():
    model = random_llama("tiny")
    per_token, logits = kv_bytes_per_token(model), 12 * model.config.vocab_size
    private_row, shared_row = (n * per_token + logits for n in (40 + 4, 4))

    def found(way, free_bytes, **options):
        sizes = {"held": 40, "new_tokens": 4, "max_rows": 64, "warm_ups": 1, "runs": 2} | options
        return throughput(model, way, free_bytes=free_bytes, **sizes)

    three = found(PRIVATE, math.ceil(3.5 * private_row / 0.95))
    assert (three.rows, three.held_tokens, three.runs) == (3, 40, 2)
    assert three.cache_bytes == 3 * 44 * per_token and three.deviation_per_s > 0
    shared = found(SHARED, math.ceil((40 * per_token + 5.5 * shared_row) / 0.95), seconds=0.0)
    assert (shared.rows, shared.runs, shared.deviation_per_s) == (5, 1, None)
    assert shared.cache_bytes == (40 + 5 * 4) * per_token
    assert found(PRIVATE, 1000) is None
    assert found(PRIVATE, 2**70, held=2**50, max_rows=2) is None, (
        "what does not fit after all is tried smaller"
    )


@pytest.mark.parametrize("way", [PRIVATE, SHARED])
@pytest.mark.parametrize("room", [1, 2, 19, 37, 64])
def test_where_memory_runs_out_the_largest_batch_is_found_by_halves(monkeypatch, way, room):
    """A card with room for so many rows, in a trial and in a run."""
    tried = []
    make = serving_rows._decoder

    def decoder(model, way, rows, held, new_tokens):
        tried.append(rows)
        if rows > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return make(model, way, rows, held, new_tokens)

    monkeypatch.setattr(serving_rows, "_decoder", decoder)
    sizes = {"held": 5, "new_tokens": 2, "free_bytes": 2**30, "max_rows": 64, "warm_ups": 0, "runs": 1}
    found = throughput(random_llama("tiny"), way, **sizes)
    assert room - max(1, room // 16) < found.rows <= room
    assert tried[0] == 64 and len(tried) <= 8


def test_a_run_that_takes_more_than_its_trial_is_made_smaller(monkeypatch):
    measure = serving_rows._measure

    def hungry(model, way, rows, *args):
        if rows > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(model, way, rows, *args)

    monkeypatch.setattr(serving_rows, "_measure", hungry)
    sizes = {"held": 5, "new_tokens": 2, "free_bytes": 2**30, "max_rows": 16, "warm_ups": 0, "runs": 1}
    assert throughput(random_llama("tiny"), PRIVATE, **sizes).rows == 13


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("Expected all tensors to be on the same device")

    monkeypatch.setattr(serving_rows, "_decoder", broken)
    with pytest.raises(RuntimeError, match="same device"):
        throughput(random_llama("tiny"), SHARED, held=5, new_tokens=2, free_bytes=2**30, max_rows=4)


@pytest.mark.parametrize(
    ("most", "room", "found"), [(8, 8, 8), (8, 0, 0), (1, 1, 1), (9, 8, 8), (4096, 1, 1), (0, 5, 0)]
)
def test_the_search_ends_at_the_largest(most, room, found):
    assert largest(lambda rows: rows <= room, most) == found


def test_ratios_need_the_corpus():
    own, corpus = "cartridge, one per row", "corpus, a cache per row"
    assert ratios({own: 6.0, corpus: 2.0}) == {f"{own} ÷ corpus": 3.0}
    assert ratios({own: 6.0}) == {}


def test_the_script_plots_and_keeps_each_corpus_as_it_is_known(tmp_path, capsys):
    plot = tmp_path / "plots" / "serving.svg"
    options = ("--corpus-tokens", "64", "96", "--new-tokens", "2", "--parts", "largest", "--plot", str(plot))
    figures = run(serving, tmp_path, *options)
    assert (
        figures["results"] == []
        and [r["corpus_tokens"] for r in figures["throughput"]] == [64] * 3 + [96] * 3
    )
    assert "<svg" in plot.read_text() and "**A question**" not in capsys.readouterr().out


def test_a_batch_of_questions_that_does_not_fit_is_halved(tmp_path, monkeypatch):
    answer = serving._answer_s

    def hungry(args, model, prefix, rows, clock):
        if rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(args, model, prefix, rows, clock)

    monkeypatch.setattr(serving, "_answer_s", hungry)
    options = (
        "--corpus-tokens",
        "40",
        "--new-tokens",
        "2",
        "--memory-bytes",
        str(2**24),
        "--parts",
        "questions",
    )
    assert {row["rows"] for row in run(serving, tmp_path, *options, "--max-rows", "8")["results"]} == {2}
