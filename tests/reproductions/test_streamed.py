"""Tables of streaming perplexity, on a tiny model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.streaming import streamed_documents, streaming_perplexity
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.reproductions import reproduce, streamed
from lit_cartridges.reproductions.tables.cascade_settings import DEFAULT, CascadeSettings
from lit_cartridges.reproductions.tables.pg19 import PG19
from tests.tiny_run import save_model, words


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    texts = [folder / "a.txt", folder / "b.txt", folder / "short.txt"]
    for text, count in zip(texts, (90, 70, 40), strict=True):
        text.write_text(words(count, rng))
    return {
        "model": save_model(folder / "model"),
        "corpora": texts,
        "sink_tokens": 2,
        "stride_tokens": 8,
    }


def test_pg19_is_streaming_perplexity_by_cache_and_length(given, tmp_path, monkeypatch):
    settings = {**given, "lengths": (32, 64), "caches": (8, 32), "cascades": 2}
    result = reproduce(PG19(**settings), tmp_path, device="cpu")
    found = {(one.row, one.column): one for one in result.figures}
    model, tokenizer = load_model(given["model"]), load_tokenizer(given["model"])
    table = PG19(**settings)

    def naive(system, length, cache):
        known = streamed_documents(given["corpora"], tokenizer, num_tokens=length, plain=True)
        ids = [ids for _, ids in known if len(ids) == length]
        return streaming_perplexity(model, ids, system, table.options(cache, cascades=2))

    long = [ids for _, ids in streamed_documents(given["corpora"], tokenizer, num_tokens=64, plain=True)]
    for system in ("cascade", "streaming_llm", "truncated", "dense"):
        mine, theirs = found[system, "8 of 64"], naive(system, 64, 8)
        assert mine.mean == pytest.approx(theirs.perplexity, rel=1e-4)
        assert mine.num_questions == theirs.num_documents == 2  # the short one is not as long
    assert found["cascade", "8 of 32"].num_questions == 3
    assert ("cascade", "32 of 32") not in found
    assert found["cascade", "8 of 64"].standard_error is None, "two documents tell none"
    a, b = (
        streaming_perplexity(
            model, [ids[:32] for ids in long], system, table.options(8, cascades=2)
        ).by_document
        for system in ("cascade", "streaming_llm")
    )
    apart = np.array(a) - np.array(b)
    percent = found["cascade", "8 of 32, % above streaming_llm"]
    assert percent.mean == pytest.approx(100 * math.expm1(apart.mean()), abs=1e-3)
    error = 100 * math.exp(apart.mean()) * apart.std(ddof=1) / math.sqrt(3)
    assert percent.standard_error == pytest.approx(error, rel=1e-3)

    for cell in (tmp_path / "cells").iterdir():  # the documents are still known
        cell.unlink()
    monkeypatch.setattr(streamed, "load_model", None)
    again = reproduce(PG19(**settings), tmp_path, device="cpu")
    assert [one.mean for one in again.figures] == [one.mean for one in result.figures]


def test_settings_are_changed_one_at_a_time_and_layers_hold_as_much_together(given, tmp_path):
    table = CascadeSettings(**given, positions=16, lengths=(64,))
    config = load_model(given["model"]).config
    sizes = {}
    for row, options in table.changes.items():
        cache: CascadingCache = options.new_cache(config)
        sizes[row] = sum(layer.shape.capacity_tokens for layer in cache.layers)
    assert set(sizes.values()) == {sizes[DEFAULT]}
    rows = [
        "1 sub-cache (StreamingLLM)",
        "last third of the layers: half as many",
        "median over query heads",
    ]
    result = reproduce(
        CascadeSettings(**given, positions=16, lengths=(64,), rows=rows), tmp_path, device="cpu"
    )
    found = {(one.row, one.column): one for one in result.figures}
    assert len(found) == 1 + 2 * len(rows)
    for row in rows:
        ratio = found[row, "64 tokens"].mean / found[DEFAULT, "64 tokens"].mean
        above = found[row, "64 tokens, nats per token above it"].mean
        assert ratio == pytest.approx(math.exp(above), rel=1e-5) and above != 0


@pytest.mark.parametrize("kind", [PG19, CascadeSettings])
def test_a_quick_run_has_cells(kind):
    assert len(kind(**kind.quick).cells()) > 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"lengths": (48,)}, "no power of two"),
        ({"corpora": ()}, "give some files"),
        ({"rows": ("nothing",)}, "there are as it is"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, setting, told):
    with pytest.raises(SettingError, match=told):
        CascadeSettings(**{**given, **setting})
