"""Streaming perplexity: what each system may see of a document, and how documents add up."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_cartridges.cascade import streamed_logprobs
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.cli import main
from lit_cartridges.commands import perplexity as module
from lit_cartridges.commands.perplexity import perplexity_command
from lit_cartridges.evals.streaming import streaming_perplexity
from lit_cartridges.evals.systems import ContextTooLong, StreamedKind, names_of
from lit_cartridges.evals.systems.dense import dense_logprobs
from lit_cartridges.evals.systems.truncated import truncated_logprobs
from tests.tiny_models import VOCAB, tiny_model
from tests.tiny_run import save_corpus, save_model, tokenizer

SMALL = CascadeOptions(total_tokens=20, cascades=2, sink_tokens=4, stride_tokens=8)


def tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def naive(model, ids: list[int], first_seen) -> torch.Tensor:
    """Token t from one plain call over the tokens first_seen(t)..t-1, which stand at positions 0, 1, …"""
    rows = []
    for t in range(1, len(ids)):
        logits = model(torch.tensor([ids[first_seen(t) : t]]), use_cache=False).logits[0, -1]
        rows.append(logits.log_softmax(-1)[ids[t]])
    return torch.stack(rows)


@pytest.mark.parametrize("length", [2, 17, 33])
def test_truncated_sees_the_last_tokens_and_its_own_stride(llama, length):
    ids = tokens(length)
    mine = truncated_logprobs(llama, torch.tensor([ids]), total_tokens=10, stride_tokens=8)[0]
    # Token t is predicted at position t - 1, in the stride that begins at the last multiple of 8 up to it.
    expected = naive(llama, ids, lambda t: max(0, (t - 1) // 8 * 8 - 10))
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_dense_sees_everything(name):
    model, ids = tiny_model(name), tokens(41)
    mine = dense_logprobs(model, torch.tensor([ids]), stride_tokens=16)[0]
    torch.testing.assert_close(mine, naive(model, ids, lambda t: 0), atol=1e-4, rtol=1e-4)


def test_all_systems_agree_where_nothing_need_be_lost(llama):
    documents = [tokens(30, 1), tokens(19, 2)]
    size = CascadeOptions(total_tokens=44, cascades=2, stride_tokens=8)
    found = [streaming_perplexity(llama, documents, system, size) for system in names_of(StreamedKind)]
    assert {result.num_tokens for result in found} == {29 + 18}
    for result in found:
        assert result.nats_per_token == pytest.approx(found[-1].nats_per_token, abs=1e-4)
        assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))


@pytest.mark.parametrize("system", ["cascade", "streaming_llm"])
def test_every_document_begins_with_a_fresh_cache(llama, system):
    documents = [tokens(70, 1), tokens(40, 2)]
    result = streaming_perplexity(llama, documents, system, SMALL)
    sized = SMALL.streaming_llm() if system == "streaming_llm" else SMALL
    scores = [
        streamed_logprobs(llama, sized.new_cache(llama.config), torch.tensor([ids]))[0] for ids in documents
    ]
    assert result.nats_per_token == pytest.approx(-torch.cat(scores).mean().item(), abs=1e-5)
    assert (result.num_documents, result.held_tokens) == (2, 20)
    assert result.by_document == pytest.approx([-one.mean().item() for one in scores], abs=1e-5)


def test_spans_double_and_cover_every_scored_token(llama):
    ids = tokens(70)
    result = streaming_perplexity(llama, [ids], "cascade", SMALL)
    assert [(a, b) for a, b, _ in result.by_position] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 69)
    ]  # fmt: skip
    total = sum((b - a + 1) * nats for a, b, nats in result.by_position)
    assert total / 69 == pytest.approx(result.nats_per_token)
    scores = streamed_logprobs(llama, SMALL.new_cache(llama.config), torch.tensor([ids]))[0]
    assert result.by_position[-1][2] == pytest.approx(-scores[63:].mean().item(), abs=1e-5)


def test_a_document_beyond_the_context_is_too_long_for_dense_alone(llama):
    with pytest.raises(ContextTooLong, match="longest document has 600 tokens, and the context holds 512"):
        streaming_perplexity(llama, [tokens(600)], "dense", SMALL)
    with pytest.raises(ContextTooLong, match="holds 100"):
        streaming_perplexity(llama, [tokens(101)], "dense", SMALL, max_context_tokens=100)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def test_the_command_scores_files_behind_the_chats_opening(tmp_path, saved, capsys):
    corpora = [save_corpus(tmp_path / f"{n}.txt", num_tokens=n, seed=n) for n in (600, 50)]
    main(
        ["perplexity", "--model", saved, "--corpora", json.dumps(corpora), "--cascade.total_tokens", "20"]
        + [
            "--cascade.cascades",
            "2",
            "--cascade.stride_tokens",
            "16",
            "--out",
            str(tmp_path / "new" / "out.json"),
        ]
    )
    printed = capsys.readouterr().out
    assert "left out dense: the longest document has 602 tokens" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:]] == ["cascade", "streaming_llm", "truncated"]
    results = json.loads((tmp_path / "new" / "out.json").read_text())["results"]
    assert {r["num_tokens"] for r in results} == {601 + 51}
    assert printed.splitlines()[1].endswith("− cascade")
    a, b = (r["by_document"] for r in results[:2])
    above = [y - x for x, y in zip(a, b, strict=True)]
    assert printed.splitlines()[4].endswith(f"{sum(above) / 2:+.4f} ± {abs(above[0] - above[1]) / 2:.4f}")
    direct = perplexity_command(model=saved, corpora=corpora, systems=["dense"], num_tokens=40, plain=True)
    texts = [[1, *tokenizer().encode(open(path).read(), add_special_tokens=False)][:40] for path in corpora]
    expected = streaming_perplexity(tiny_model("llama"), texts, "dense", SMALL)
    assert direct[0].nats_per_token == pytest.approx(expected.nats_per_token, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"systems": ["rag"]}, "must name some of cascade, dense, streaming_llm, truncated"),
        (
            {"cascade": CascadeOptions(total_tokens=30, stride_tokens=16)},
            "total_tokens=30 does not leave 4 equal",
        ),
        ({"corpora": ["nowhere.txt"]}, "no such file"),
        ({"num_tokens": 1}, "num_tokens=1 must be at least 2"),
    ],
)
def test_bad_settings_are_told_before_a_model_is_loaded(tmp_path, saved, monkeypatch, options, message):
    monkeypatch.setattr(module, "load_model", lambda *args, **more: pytest.fail("a model was loaded"))
    corpus = save_corpus(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=message):
        perplexity_command(**({"model": saved, "corpora": [corpus], "cascade": SMALL} | options))
