"""Init strategies as presses: how much stays, and that what stays is the strategy's."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.evals import evaluate, icl
from lit_cartridges.evals.pressed import kept_tokens, pressed
from lit_cartridges.init import INITS, AttentionMatching, FirstTokens, ImportantTokens
from tests.evals.words import Answered, sentence, word_renderer
from tests.tiny_models import tiny_model

TEXT = sentence(60, 3)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def corpus_ids():
    return word_renderer().encoder.following(TEXT)


@pytest.mark.parametrize("name", sorted({*INITS} - {"FromCartridge", "Text"}))
@pytest.mark.parametrize("ratio", [0.25, 0.875])
def test_a_share_of_the_positions_stays(name, ratio, model, corpus_ids):
    renderer = word_renderer()
    system = pressed(model, renderer, corpus_ids, INITS[name](), ratio=ratio)
    whole = len(renderer.context_ids(corpus_ids))
    assert system.num_kv_tokens == kept_tokens(whole, ratio) == int(whole * (1 - ratio))
    result = evaluate(model, renderer, system, Answered([("w1 w2", "w3")]), max_new_tokens=2)
    assert result.num_kv_tokens == system.num_kv_tokens and result.prefill_s > 0


def test_the_first_tokens_are_their_prefill(model, corpus_ids):
    renderer = word_renderer()
    system = pressed(model, renderer, corpus_ids, FirstTokens(), ratio=0.5)
    keys, values = prefill(model, renderer.context_ids(corpus_ids)[: system.num_kv_tokens])
    torch.testing.assert_close([*system.keys, *system.values], [*keys, *values])


@pytest.mark.parametrize("init", [ImportantTokens(queries="corpus"), ImportantTokens(), AttentionMatching()])
def test_nothing_gone_is_the_whole_context(init, model, corpus_ids):
    renderer, task = word_renderer(), Answered([("w1 w2", "w3 w4"), ("w5", "w6")])
    scored = [
        evaluate(model, renderer, system, task, max_new_tokens=3).answer_log_likelihood
        for system in (pressed(model, renderer, corpus_ids, init, ratio=0), icl(model, renderer, corpus_ids))
    ]
    assert scored[0] == pytest.approx(scored[1], abs=1e-4)
