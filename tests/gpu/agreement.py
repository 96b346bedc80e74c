"""What the tests here share: small models whose whole attention is exercised, in fp32 on the CPU and in 16 bits elsewhere.

Every test runs on a CUDA device (``-m gpu``), and with its 16-bit half on the CPU, which says little about kernels and that the
test itself is right. Where there is no such device it also runs on a pretended one, which says that tensors lie where they must
(`tests.pretend_cuda`).
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.tiny_models import VOCAB

CARD = pytest.param("cuda", marks=pytest.mark.gpu)
CARDS = [CARD, pytest.param("cuda", id="pretended")]
DEVICES = ["cpu", *CARDS]
HALVES = [torch.bfloat16, torch.float16]
# Of the norm of what fp32 gives: about three times what the CPU's 16-bit kernels were off by.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.06, torch.float16: 0.012}
WINDOW = 12
_SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {**_SLIDING, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 1.5},
    # As many experts as a token takes: a router that rounds cannot choose others.
    "gpt_oss": {**_SLIDING, "num_local_experts": 2, "num_experts_per_tok": 2},
}
"""Plain, windowed, soft-capped, and with sinks; heads of 16, two query heads per key head."""


@cache
def exact_model(name: str) -> PreTrainedModel:
    """Frozen, fp32, on the CPU."""
    config = AutoConfig.for_model(
        name,
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **MODELS[name],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
        elif parameter_name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model.eval().requires_grad_(False)


def model_on(name: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights, elsewhere and rounded."""
    return copy.deepcopy(exact_model(name)).to(device=device, dtype=dtype)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def require_agreement(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Raise AssertionError where they differ by more than rounding to ``dtype`` explains."""
    assert ours.shape == exact.shape
    ours, exact = ours.detach().double().cpu(), exact.detach().double().cpu()
    difference = float((ours - exact).norm() / exact.norm())
    assert difference < TOLERANCE[dtype], f"off by {difference:.4f} of the norm"
