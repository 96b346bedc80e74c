"""GGUF files of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedModel

TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


# llama.cpp's names of the architectures that it knows under another one, and those whose heads it rotates by neighbours.
_ARCHITECTURES = {"mistral": "llama"}
_BY_NEIGHBOURS = ("llama",)


def write_gguf(path: Path, model: PreTrainedModel) -> Path:
    """The model in fp32, with a tokenizer of single bytes, one pair and an end token, as llama.cpp's converter lays it out."""
    config: Any = model.config
    architecture = _ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = [*(chr(0x21 + i) for i in range(config.vocab_size - 2)), '!"', "<|endoftext|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(['! "'])
    for add in (
        writer.add_eos_token_id,
        writer.add_bos_token_id,
        writer.add_unk_token_id,
        writer.add_pad_token_id,
    ):
        add(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    writer.add_license("apache-2.0")
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    weights = model.state_dict()
    for name, there in (("embed_tokens", "token_embd"), ("norm", "output_norm")):
        writer.add_tensor(f"{there}.weight", weights[f"model.{name}.weight"].numpy())
    writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for ours, theirs in _NAMES.items():
            for part in ("weight", "bias"):
                weight = weights.get(f"model.layers.{layer}.{ours}.{part}")
                if weight is None:
                    continue
                if theirs in ("attn_q", "attn_k") and architecture in _BY_NEIGHBOURS:
                    weight = _interleaved(weight, heads[theirs[-1]])
                writer.add_tensor(f"blk.{layer}.{theirs}.{part}", weight.numpy())
    if config.rope_parameters.get("rope_type", "default") == "llama3":
        plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, head_dim, 2) / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring rows of a head, transformers its two halves."""
    rows = weight.view(heads, 2, -1, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape).contiguous()
