"""A cartridge holds a prefill, trains all but its sink, and joins others of its model (laws 1 to 3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from lit_cartridges import Cartridge
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.cartridge_files.facts import trained_prompts
from lit_cartridges.generation import generate
from lit_cartridges.losses import LanguageHead, NextToken, Targets, chunked_loss
from tests.tiny_models import VOCAB, tiny_model

TOKENS, LAYERS, KV_HEADS, DIM = 12, 2, 2, 8


def drawn(
    num_tokens=TOKENS, *, seed=0, num_frozen_tokens=1, layers=LAYERS, kv_heads=KV_HEADS, dim=DIM, **known
):
    generator = torch.Generator().manual_seed(seed)
    sides = [
        [torch.randn(kv_heads, num_tokens, dim, generator=generator) for _ in range(layers)] for _ in range(2)
    ]
    return Cartridge(*sides, num_frozen_tokens=num_frozen_tokens, provenance=Provenance(**known))


def plain_cache(model, num_tokens=TOKENS, **options):
    """A prefill by transformers alone."""
    cache = DynamicCache(**options)
    with torch.no_grad():
        model(torch.arange(3, 3 + num_tokens)[None], **cache_argument(cache))
    return cache


def test_from_cache_keeps_transformers_keys_and_values_as_they_are(llama):
    cache = plain_cache(llama)
    keys, values = Cartridge.from_cache(cache, num_frozen_tokens=3).tensors()
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        assert torch.equal(key, cache.layers[layer].keys[0])
        assert torch.equal(value, cache.layers[layer].values[0])


def test_from_cache_takes_the_first_positions(llama):
    cache = plain_cache(llama)
    cartridge = Cartridge.from_cache(cache, num_tokens=5)
    assert cartridge.num_tokens == 5
    assert torch.equal(cartridge.tensors()[0][1], cache.layers[1].keys[0, :, :5])


@pytest.mark.parametrize("num_tokens", [0, -2, 13])
def test_from_cache_refuses_positions_that_the_cache_does_not_hold(llama, num_tokens):
    with pytest.raises(
        ValueError, match=f"num_tokens={num_tokens} of a cache that holds 12 positions; choose 1 to 12"
    ):
        Cartridge.from_cache(plain_cache(llama), num_tokens=num_tokens)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text"])
def test_from_cache_refuses_a_cache_whose_sliding_layers_have_dropped_positions(name):
    model = tiny_model(name)  # window: 24
    with pytest.raises(
        ValueError, match=r"of 30 positions: its sliding-window layers have dropped some; prefill with"
    ):
        Cartridge.from_cache(plain_cache(model, 30, config=model.config))


def test_from_cache_refuses_several_rows(llama):
    cache = plain_cache(llama)
    cache.batch_repeat_interleave(2)
    with pytest.raises(ValueError, match=r"from a cache of 1 row; this one has \[2\]"):
        Cartridge.from_cache(cache)


@pytest.mark.parametrize("frozen", [-1, TOKENS, TOKENS + 1])
def test_the_number_of_frozen_tokens_leaves_something_to_train(frozen):
    with pytest.raises(ValueError, match=f"num_frozen_tokens={frozen} with num_tokens=12.*choose 0 to 11"):
        drawn(num_frozen_tokens=frozen)


@pytest.mark.parametrize("frozen", [0, 1, TOKENS - 1])
def test_every_other_number_works(frozen):
    cartridge = drawn(num_frozen_tokens=frozen)
    whole = drawn(num_frozen_tokens=1)
    for mine, other in zip(cartridge.tensors()[0], whole.tensors()[0], strict=True):
        assert torch.equal(mine, other)
    assert {p.shape[1] for p in cartridge.parameters()} == {TOKENS - frozen}
    assert {b.shape[1] for b in cartridge.buffers()} == {frozen}


@pytest.mark.parametrize(
    "sides",
    [
        ([torch.zeros(2, 4, 8)], [torch.zeros(2, 5, 8)]),
        ([torch.zeros(2, 4, 8)] * 2, [torch.zeros(2, 4, 8)]),
        ([torch.zeros(1, 2, 4, 8)], [torch.zeros(1, 2, 4, 8)]),
        ([], []),
    ],
)
def test_layers_of_unequal_shape_are_refused(sides):
    with pytest.raises(
        ValueError, match=r"needs keys and values \[kv_heads, num_tokens, head_dim\] of one length"
    ):
        Cartridge(*sides)


def test_tensors_are_differentiable_fp32_and_built_anew():
    half = [torch.randn(2, 6, 8, dtype=torch.bfloat16) for _ in range(2)]
    cartridge = Cartridge(half, half, num_frozen_tokens=2)
    assert {x.dtype for x in cartridge.state_dict().values()} == {torch.float32}
    keys, values = cartridge.tensors(dtype=torch.bfloat16)
    assert {x.dtype for x in (*keys, *values)} == {torch.bfloat16}
    sum((x.float() ** 2).sum() for x in (*keys, *values)).backward()
    for parameter in cartridge.parameters():
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, 2 * parameter.detach())
    with torch.no_grad():
        cartridge.trainable_keys[0].add_(1)
    assert torch.equal(cartridge.tensors()[0][0][:, 2:], cartridge.trainable_keys[0])


def test_changing_the_tensors_it_was_made_of_does_not_change_a_cartridge():
    keys = [torch.ones(2, 4, 8)]
    cartridge = Cartridge(keys, keys)
    keys[0].zero_()
    assert (cartridge.tensors()[0][0] == 1).all()


def test_as_cache_gives_the_tokens_of_the_generate_path(llama):
    cartridge = Cartridge.from_cache(plain_cache(llama))
    ids = torch.randint(3, VOCAB, (2, 5), generator=torch.Generator().manual_seed(1))
    cache = cartridge.as_cache(batch_size=2)
    assert cache.get_seq_length() == TOKENS
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    plain = llama.generate(
        ids, attention_mask=torch.ones(2, TOKENS + 5, dtype=torch.long), **cache_argument(cache), **options
    )
    assert generate(llama, cartridge, ids, **options).tolist() == plain.tolist()


def test_nbytes_counts_what_is_held():
    assert drawn(num_frozen_tokens=3).nbytes == 2 * LAYERS * KV_HEADS * TOKENS * DIM * 4


def test_composition_keeps_the_first_sink_alone():
    parts = [drawn(5, seed=1, num_frozen_tokens=2), drawn(6, seed=2, num_frozen_tokens=1), drawn(4, seed=3)]
    both = Cartridge.compose(parts)
    assert (both.num_tokens, both.num_frozen_tokens) == (5 + 5 + 3, 2)
    for side in (0, 1):
        for layer in range(LAYERS):
            first, second, third = (part.tensors()[side][layer] for part in parts)
            assert torch.equal(
                both.tensors()[side][layer], torch.cat([first, second[:, 1:], third[:, 1:]], 1)
            )


def test_composition_keeps_every_sink_where_it_is_told_to():
    parts = [drawn(5, seed=1), drawn(6, seed=2)]
    both = Cartridge.compose(parts, keep_sinks=True)
    assert both.num_tokens == 11
    assert torch.equal(both.tensors()[1][0], torch.cat([p.tensors()[1][0] for p in parts], 1))


def test_a_composition_remembers_its_corpora():
    both = Cartridge.compose([drawn(corpus_sha256="a" * 64, loss=0.5), drawn(corpus_sha256="b" * 64)])
    known = both.provenance
    assert known.init == "compose"
    assert known.notes == {"composed_of": ["a" * 64, "b" * 64]}
    assert (known.loss, known.corpus_sha256) == (None, "")


def test_the_prompts_of_the_training_go_along():
    def trained(**settings):
        return drawn(notes={"settings": {f"data.{name}": value for name, value in settings.items()}})

    one, other = (
        trained(system_template="{chunk} w1", enable_thinking=True),
        trained(system_template="{chunk} w1"),
    )
    assert trained_prompts(one.provenance) == {"system_template": "{chunk} w1", "enable_thinking": True}
    both = Cartridge.compose([one, other])
    assert trained_prompts(both.provenance) == {"system_template": "{chunk} w1"}
    assert trained_prompts(trained(system_template=3, enable_thinking="no").provenance) == {}
    assert trained_prompts() == trained_prompts(Provenance(notes={"settings": [1]})) == {}


def test_composition_refuses_other_models_and_nothing_at_all(llama):
    with pytest.raises(ValueError, match="compose needs at least one cartridge; got none"):
        Cartridge.compose([])
    with pytest.raises(
        ValueError, match=r"different models: \(kv_heads, head_dim\) per layer: .* against .*\(2, 16\)"
    ):
        Cartridge.compose([drawn(), drawn(dim=16)])
    mine = Fingerprint.of_config(llama.config)
    other = replace(mine, rope={"rope_theta": 1.0})
    with pytest.raises(ValueError, match="different models: rope: .* against .*1.0"):
        Cartridge.compose([drawn(fingerprint=mine), drawn(fingerprint=other)])


@pytest.mark.parametrize("with_fingerprint", [True, False])
@pytest.mark.parametrize(
    ("size", "difference"),
    [
        ({"layers": 3}, "num_layers: 3 against 2"),
        ({"kv_heads": 4}, "num_kv_heads: 4 against 2"),
        ({"dim": 16}, "head_dim: 16 against 8"),
    ],
)
def test_a_cartridge_that_does_not_fit_names_the_difference(llama, size, difference, with_fingerprint):
    mine = replace(
        Fingerprint.of_config(llama.config),
        num_layers=size.get("layers", 2),
        num_kv_heads=size.get("kv_heads", 2),
        head_dim=size.get("dim", 8),
    )
    cartridge = drawn(**size, base_model="some/model", fingerprint=mine if with_fingerprint else None)
    with pytest.raises(ValueError, match=rf"\(of some/model\) does not fit LlamaForCausalLM: .*{difference}"):
        cartridge.require_fit(llama)
    with pytest.raises(ValueError, match=difference):
        generate(llama, cartridge, torch.tensor([[5]]), max_new_tokens=1)


def test_another_rotation_of_the_keys_is_a_difference(llama):
    mine = replace(Fingerprint.of_config(llama.config), rope={"rope_theta": 1.0})
    with pytest.raises(ValueError, match=r"rope: \{'rope_theta': 1.0\} against"):
        drawn(fingerprint=mine).require_fit(llama)


def test_a_cartridge_longer_than_the_models_positions_is_refused(llama):
    drawn(511).require_fit(llama)
    with pytest.raises(
        ValueError, match="num_tokens=512 leaves no position for the user.*max_position_embeddings=512"
    ):
        drawn(512).require_fit(llama)


def test_a_cartridge_of_every_architecture_fits_its_model(model):
    cartridge = Cartridge(*prefill(model, torch.arange(3, 9)))
    cartridge.require_fit(model)
    Cartridge(
        *cartridge.tensors(), provenance=Provenance(fingerprint=Fingerprint.of_config(model.config))
    ).require_fit(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_moves_no_frozen_position_and_no_weight_by_one_bit(dtype):
    model = tiny_model("llama")
    if dtype != torch.float32:
        import copy

        model = copy.deepcopy(model).to(dtype)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    cartridge = Cartridge(*prefill(model, torch.arange(3, 15)), num_frozen_tokens=2)
    before = [x.clone() for side in cartridge.tensors() for x in side]
    optimizer = torch.optim.Adam(cartridge.parameters(), lr=0.05)
    ids = torch.randint(3, VOCAB, (1, 9), generator=torch.Generator().manual_seed(2))
    positions = torch.arange(9)[None] + cartridge.num_tokens
    losses = []
    for _ in range(5):
        keys, values = cartridge.tensors(dtype=dtype)
        with reads_prefixes(model):
            reading = Reading(keys=keys, values=values, position_ids=positions, lengths=(9,))
            hidden = model.base_model(
                ids, position_ids=positions, use_cache=False, reading=reading
            ).last_hidden_state
        loss, _, _ = chunked_loss(
            hidden[0, :-1], Targets(token_ids=ids[0, 1:]), NextToken(), LanguageHead(model)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for old, new in zip(before, [x for side in cartridge.tensors() for x in side], strict=True):
        assert torch.equal(old[:, :2], new[:, :2])
        assert (old[:, 2:] != new[:, 2:]).any(dim=(0, 2)).all()
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}
