"""What models hand to their attention beside queries, keys and values: known, harmless, or refused by name."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.extras import cached_heads
from lit_cartridges.attention.parts import PackedPart, SlicedPart
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cascade import CascadingCache, reads_cascades
from tests.cascade.models import random_model
from tests.tiny_models import VOCAB

IDS = torch.arange(3, 12)[None]
UNKNOWN = {
    "position_bias": torch.zeros(1, 4, 9, 9),  # Inkling
    "sinks": torch.zeros(1, 4, 9, 1),  # Inkling 2
    "indices": torch.zeros(1, 9, 4, dtype=torch.long),  # DeepSeek 3.2
    "block_indices": torch.zeros(1, 9, 4, dtype=torch.long),  # MiniMax 3
    "cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32),  # a collator that packs without padding
    "alibi": torch.zeros(4),
    "encoder_hidden_states": torch.zeros(1, 3, 32),
}


def call(model, kind, **options):
    with torch.no_grad():
        if kind == "cartridge":
            with reads_prefixes(model):
                return model(IDS, use_cache=False, reading=Reading(), position_ids=IDS - 3, **options)
        with reads_cascades(model):
            cache = CascadingCache(config=model.config, window_tokens=16, stride_tokens=16)
            return model(IDS, **cache_argument(cache), **options)


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
@pytest.mark.parametrize("name", list(UNKNOWN))
def test_what_no_attention_of_ours_knows_is_refused_by_name(llama, kind, name):
    with pytest.raises(ValueError, match=f"layer 0 uses {name} in its attention"):
        call(llama, kind, **{name: UNKNOWN[name]})


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
def test_what_says_nothing_is_let_through(llama, kind):
    given = {"alibi": None, "output_attentions": False, "output_router_logits": True, "is_causal": True}
    assert torch.equal(call(llama, kind, **given).logits, call(llama, kind).logits)


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
def test_there_are_no_attention_weights_and_it_says_so(llama, kind):
    with pytest.warns(UserWarning, match="output_attentions=True: .* gives no attention weights"):
        out = call(llama, kind, output_attentions=True)
    assert torch.equal(out.logits, call(llama, kind).logits)


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
def test_attention_that_is_not_causal_is_refused(llama, kind, monkeypatch):
    with pytest.raises(ValueError, match="layer 0 attends in both directions"):
        call(llama, kind, is_causal=False)
    monkeypatch.setattr(llama.model.layers[1].self_attn, "is_causal", False)
    with pytest.raises(ValueError, match=r"layer 1 \(LlamaAttention\) attends in both directions"):
        call(llama, kind)


def test_jetmoe_repeats_its_heads_in_turn_after_caching_them():
    """Four query heads and experts of two: head h reads the cached head h % 2, where others read h // 2."""
    model = random_model(
        "jetmoe", num_key_value_heads=2, kv_channels=8, num_local_experts=4, num_experts_per_tok=2
    )
    ids = torch.randint(3, VOCAB, (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits[:, 12:]
    keys, values = prefill(model, ids[0, :12])
    seen = []
    reading = Reading(keys=keys, values=values, observe=lambda *given: seen.append(given[1]))
    with reads_prefixes(model), torch.no_grad():
        positions = torch.arange(12, 30)[None]
        logits = model(ids[:, 12:], position_ids=positions, use_cache=False, reading=reading).logits
        torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="4 heads of keys 8 wide where 2 of 8 are cached"):
        call(model, "cascade")


def test_heads_that_are_no_repetition_of_the_cached_ones_are_refused():
    key, cached = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 3, 8)
    in_turn, in_place = cached.repeat(1, 2, 1, 1), cached.repeat_interleave(2, 1)
    assert cached_heads(cached, cached, cached, cached) is None
    assert cached_heads(in_turn, in_turn, cached, cached).tolist() == [0, 1, 0, 1]
    assert cached_heads(in_place, in_place, cached, cached).tolist() == [0, 0, 1, 1]
    for own_key, own_value in ((key, key), (in_turn, key), (cached, torch.randn(1, 2, 3, 12))):
        with pytest.raises(ValueError, match="caches other keys and values than it attends to"):
            cached_heads(own_key, own_value, cached, cached)


@pytest.mark.parametrize("part_lengths", [(4, 4), (9, 1)])
@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_packed_sequences_fill_their_row(part_lengths, device):
    """Else places would be read from memory that nobody wrote."""
    part = SlicedPart(part_lengths)
    if device == "accelerator":
        part = PackedPart.of_lengths(part_lengths, device=torch.device("cpu"))
    query = torch.randn(1, 2, 9, 8)
    with pytest.raises(
        ValueError, match=rf"lengths of packed sequences sum to {sum(part_lengths)}; .* 9 tokens"
    ):
        part.attend(query, query, query, 0.4)
