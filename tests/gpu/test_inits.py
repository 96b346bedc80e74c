"""Every init strategy in 16 bits, against the same in fp32 on the CPU."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.init import (
    INITS,
    FromCartridge,
    ImportantTokens,
    RandomVectors,
    SampledChunks,
    Summary,
    Text,
)
from tests.gpu.agreement import DEVICES, HALVES, exact_model, model_on, require_agreement
from tests.init.reference_texts import OPENING, drawn_context
from tests.tiny_run import tokenizer

CORPUS_TOKENS = 60
# All positions stay, since rounding may decide between two that are nearly as good.
ALL = {
    **INITS,
    "Text": lambda: Text(text=" ".join(f"w{i}" for i in range(CORPUS_TOKENS + OPENING))),
    "RandomVectors": lambda: RandomVectors(scale="matched"),
    "SampledChunks": lambda: SampledChunks(chunk_tokens=8),
    "ImportantTokens": lambda: ImportantTokens(queries="corpus"),
    "Summary": lambda: Summary(chunk_tokens=32, map_prompt="w8 w9", reduce_prompt="w7 w6"),
}


def started(strategy, model, num_tokens):
    context = drawn_context(
        model, num_tokens=num_tokens, corpus_tokens=CORPUS_TOKENS, renderer=ChatRenderer(tokenizer())
    )
    tensors = strategy.tensors(context)
    assert {x.device.type for x in (*tensors.keys, *tensors.values)} == {model.device.type}
    return torch.cat([x.double().cpu().flatten() for x in (*tensors.keys, *tensors.values)])


@pytest.fixture
def make(tmp_path):
    """Strategies by their name."""

    def of(name):
        if name != "FromCartridge":
            return ALL[name]()
        Cartridge(*prefill(exact_model("gemma2"), range(3, 67))).save_pretrained(tmp_path / "old")
        return FromCartridge(path=str(tmp_path / "old"))

    return of


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", sorted(set(ALL) - {"Summary"}))
def test_every_strategy(make, name, dtype, device):
    ours, exact = (
        started(make(name), model, CORPUS_TOKENS + OPENING)
        for model in (model_on("gemma2", device, dtype), exact_model("gemma2"))
    )
    require_agreement(ours, exact, dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_a_summary(make, device):
    """In fp32, since it writes what rounding would change from the first differing token on."""
    ours, exact = (
        started(make("Summary"), model, 12)
        for model in (model_on("gemma2", device, torch.float32), exact_model("gemma2"))
    )
    require_agreement(ours, exact, torch.float32)
