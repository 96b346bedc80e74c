"""What every strategy owes: the right shapes for every architecture, one result per seed, corpora of any length."""

from __future__ import annotations

from inspect import isabstract

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.generation import generate
from lit_cartridges.init import (
    INITS,
    CascadeTokens,
    FirstTokens,
    InitContext,
    InitialTensors,
    InitStrategy,
    RandomTokens,
    RandomVectors,
    SampledChunks,
    Summary,
    Text,
)
from tests.init.context import CORPUS, OPENING, all_tensors, naive_prefill, new_context, same
from tests.tiny_models import tiny_model

NEW = {
    "RandomVectors": RandomVectors,
    "RandomVectors(matched)": lambda: RandomVectors(scale="matched"),
    "RandomTokens": RandomTokens,
    "FirstTokens": FirstTokens,
    "Text": lambda: Text(text="w1 w2 w3 w4 w5"),
    "Summary": lambda: Summary(chunk_tokens=32, map_prompt="w8 w9", reduce_prompt="w7 w6"),
    "SampledChunks": lambda: SampledChunks(chunk_tokens=4),
    "SampledChunks in order": lambda: SampledChunks(chunk_tokens=4, in_order=True),
    "CascadeTokens": CascadeTokens,
}
RANDOM = {
    "RandomVectors",
    "RandomVectors(matched)",
    "RandomTokens",
    "SampledChunks",
    "SampledChunks in order",
}


@pytest.fixture(params=list(NEW))
def named(request):
    return request.param, NEW[request.param]()


def test_every_strategy_gives_each_layer_its_shape_on_every_architecture(named, model):
    tensors = named[1].tensors(new_context(model))
    assert [x.shape for x in all_tensors(tensors)] == [x.shape for x in naive_prefill(model, CORPUS[:12])]
    assert all(torch.isfinite(x).all() for x in all_tensors(tensors))
    cartridge = Cartridge(*tensors)
    cartridge.require_fit(model)
    out = generate(model, cartridge, torch.tensor([[9, 10]]), max_new_tokens=2, do_sample=False)
    assert out.shape[0] == 1


def test_the_seed_decides_every_random_choice_and_nothing_else_is_random(named, llama):
    name, strategy = named
    first, again, other = (strategy.tensors(new_context(llama, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert same(first, other) == (name not in RANDOM)


def test_a_corpus_longer_than_the_context_is_no_obstacle(named, llama):
    corpus = (CORPUS * 20)[:1100]  # the model has 512 positions
    assert named[1].tensors(new_context(llama, corpus=corpus)).num_tokens == 12


def test_a_corpus_shorter_than_the_cartridge_is_none_either(named, llama):
    assert named[1].tensors(new_context(llama, num_tokens=30, corpus=CORPUS[:5])).num_tokens == 30


def test_a_cartridge_as_long_as_the_context_allows(named, llama):
    assert named[1].tensors(new_context(llama, num_tokens=511)).num_tokens == 511


def test_models_attention_is_its_own_again_and_may_already_be_ours(named, llama):
    """A run calls strategies while its model reads prefixes; other callers do not."""
    before = llama.config._attn_implementation
    alone = named[1].tensors(new_context(llama))
    assert llama.config._attn_implementation == before
    with reads_prefixes(llama):
        inside = named[1].tensors(new_context(llama))
    assert same(alone, inside)


@pytest.mark.parametrize("name", [name for name in NEW if not name.startswith("RandomVectors")])
def test_the_opening_stands_in_front_of_every_text(name, llama):
    tensors = NEW[name]().tensors(new_context(llama))
    for mine, other in zip(all_tensors(tensors), naive_prefill(llama, OPENING), strict=True):
        torch.testing.assert_close(mine[:, :2], other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_tokens", [0, -3, 512, 5000])
def test_a_number_of_positions_that_the_model_does_not_have_is_refused(llama, num_tokens):
    message = rf"num_tokens={num_tokens} must lie in 1..511.*max_position_embeddings=512"
    with pytest.raises(ValueError, match=message):
        new_context(llama, num_tokens=num_tokens)


def test_no_room_behind_the_opening_is_refused(llama):
    with pytest.raises(
        ValueError, match=r"num_tokens=2 .*init=FirstTokens.* opening of 2 tokens; choose at least 3"
    ):
        FirstTokens().tensors(new_context(llama, num_tokens=2))


def test_a_context_may_be_made_of_a_model_and_ids_alone(llama):
    bare = InitContext(model=llama, context_ids=CORPUS, num_tokens=6)
    assert list(bare.corpus_ids) == CORPUS and list(bare.opening_ids) == []
    assert FirstTokens().tensors(bare).num_tokens == 6
    for strategy in (RandomTokens(), Text(text="w1"), Summary()):
        with pytest.raises(ValueError, match=rf"init={strategy.describe()} needs the tokenizer"):
            strategy.tensors(bare)


def test_self_study_without_a_teacher_is_refused_by_the_strategys_name(llama):
    with pytest.raises(ValueError, match=r"init=FirstTokens needs self-study .* no teacher"):
        new_context(llama).conversations(4, FirstTokens())
    taught = new_context(llama, self_study=lambda count: [[7, 8]] * count)
    assert taught.conversations(3, FirstTokens()) == [[7, 8]] * 3


def test_the_registry_names_every_strategy_that_the_package_has():
    def below(cls):
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    ours = {
        cls
        for cls in below(InitStrategy)
        if cls.__module__.startswith("lit_cartridges.init.") and not isabstract(cls)
    }
    assert set(INITS.values()) == ours
    assert all(name == cls.__name__ for name, cls in INITS.items())
    assert len(INITS) >= 10


def test_tensors_are_cut_and_joined_by_position_and_missing_biases_are_zeros():
    plain = InitialTensors([torch.ones(2, 3, 4)], [torch.ones(2, 3, 4)])
    biased = InitialTensors([torch.zeros(2, 2, 4)], [torch.zeros(2, 2, 4)], [torch.full((2, 2), 5.0)])
    both = plain.followed_by(biased)
    assert both.num_tokens == 5 and both.keys[0][:, :, 0].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert both.biases[0].tolist() == [[0, 0, 0, 5, 5]] * 2
    assert biased.followed_by(plain).biases[0].tolist() == [[5, 5, 0, 0, 0]] * 2
    cut = both.positions(2, 4)
    assert cut.biases[0].tolist() == [[0, 5]] * 2 and cut.values[0][:, :, 0].tolist() == [[1, 0]] * 2
    assert plain.positions(0, 1).biases is None and plain.followed_by(plain).biases is None


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text"])
def test_a_prefill_in_windows_is_the_prefill_at_once(name):
    from lit_cartridges.attention.prefill import prefill

    model, ids = tiny_model(name), list(range(3, 63))
    for whole, parts in zip(prefill(model, ids), prefill(model, ids, window_tokens=7), strict=True):
        for mine, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_a_prefill_of_nothing_or_of_too_much_is_refused(llama):
    from lit_cartridges.attention.prefill import prefill

    with pytest.raises(ValueError, match="needs at least one token; got none"):
        prefill(llama, [])
    with pytest.raises(ValueError, match="a prefill of 513 tokens does not fit max_position_embeddings=512"):
        prefill(llama, [5] * 513)
