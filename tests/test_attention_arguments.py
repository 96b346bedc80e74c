"""What models hand to their attention beside queries, keys and values: known, harmless, or refused by name."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_cartridges.attention import Reading, prefix_attention, reads_prefixes
from lit_cartridges.attention_parts import PackedPart, SlicedPart
from lit_cartridges.cascade import CascadingCache, reads_cascades
from lit_cartridges.prefill import prefill
from tests.tiny_models import VOCAB, tiny_model

IDS = torch.arange(3, 12)[None]
UNKNOWN = {
    "position_bias": torch.zeros(1, 4, 9, 9),  # Inkling
    "sinks": torch.zeros(1, 4, 9, 1),  # Inkling 2
    "indices": torch.zeros(1, 9, 4, dtype=torch.long),  # DeepSeek 3.2
    "block_indices": torch.zeros(1, 9, 4, dtype=torch.long),  # MiniMax 3
    "cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32),  # a collator that packs without padding
    "alibi": torch.zeros(4),
    "output_attentions": True,
    "encoder_hidden_states": torch.zeros(1, 3, 32),
}


def call(model, kind, **options):
    with torch.no_grad():
        if kind == "cartridge":
            with reads_prefixes(model):
                return model(IDS, use_cache=False, reading=Reading(), position_ids=IDS - 3, **options)
        with reads_cascades(model):
            cache = CascadingCache(config=model.config, window_tokens=16, stride_tokens=16)
            return model(IDS, past_key_values=cache, **options)


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
@pytest.mark.parametrize("name", list(UNKNOWN))
def test_what_no_attention_of_ours_knows_is_refused_by_name(llama, kind, name):
    with pytest.raises(ValueError, match=f"LlamaAttention uses {name} in its attention"):
        call(llama, kind, **{name: UNKNOWN[name]})


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
def test_what_says_nothing_is_let_through(llama, kind):
    given = {"alibi": None, "output_attentions": False, "output_router_logits": True, "is_causal": True}
    assert torch.equal(call(llama, kind, **given).logits, call(llama, kind).logits)


@pytest.mark.parametrize("kind", ["cartridge", "cascade"])
def test_attention_that_is_not_causal_is_refused(llama, kind, monkeypatch):
    with pytest.raises(ValueError, match="LlamaAttention is not causal"):
        call(llama, kind, is_causal=False)
    monkeypatch.setattr(llama.model.layers[1].self_attn, "is_causal", False)
    with pytest.raises(ValueError, match="LlamaAttention is not causal"):
        call(llama, kind)


def test_an_encoder_is_not_causal_though_it_calls_itself_a_causal_model():
    config = AutoConfig.for_model(
        "bert",
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
    )
    with pytest.raises(ValueError, match="BertSelfAttention is not causal"):
        prefill(AutoModelForCausalLM.from_config(config), [1, 2, 3])


@pytest.mark.parametrize("lengths", [None, (4, 5)], ids=["rows", "packed"])
@pytest.mark.parametrize("prefix_tokens", [0, 7])
def test_the_output_lies_as_models_view_it(lengths, prefix_tokens):
    """AFMoE and JetMoE call ``view`` on it."""
    module = tiny_model("llama").model.layers[0].self_attn
    query, key, value = (torch.randn(1, 9, heads, 8).transpose(1, 2) for heads in (4, 2, 2))
    sides = [[torch.randn(2, prefix_tokens, 8)]] * 2 if prefix_tokens else [None] * 2
    reading = Reading(keys=sides[0], values=sides[1], lengths=lengths)
    out, weights = prefix_attention(module, query, key, value, None, reading=reading)
    assert weights is None
    assert out.view(1, 9, 32).shape == (1, 9, 32)


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
