"""Single tokens through a full cascade on a device: by graphs on CUDA, without waiting, as fp32 on the CPU has them."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_cartridges.cascade import CascadingCache, cascade_prefill, decodes_cascade
from lit_cartridges.models import step_graphs
from tests.gpu.agreement import (
    DEVICES,
    HALVES,
    MODELS,
    exact_model,
    model_on,
    require_agreement,
    tokens,
)

NEW_TOKENS = 24


def decoded(model, cascades: int, device: str, *, graphs: bool):
    """Logits of single tokens behind 40 read in strides, and the tokens held at the end; two rows."""
    cache = CascadingCache(
        config=model.config, sink_tokens=2, cascades=cascades, total_tokens=14, stride_tokens=8
    )
    cascade_prefill(model, cache, tokens(2, 40).to(device))
    ids = tokens(2, NEW_TOKENS, seed=1).to(device)
    with decodes_cascade(model, cache, graphs=graphs) as step:
        logits = [step(ids[:, :1])]
        for i in range(1, NEW_TOKENS):
            if device == "cuda" and not graphs and model.config.model_type != "gpt_oss":  # its router may ask
                torch.cuda.set_sync_debug_mode("error")
            try:
                logits.append(step(ids[:, i : i + 1]))
            finally:
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        replays = 0 if step.graphs is None else step.graphs.replays
        assert (replays > 10) == (graphs and step_graphs.captures(torch.device(device)))
    return torch.stack(logits, dim=1), copy.deepcopy([layer.tokens for layer in cache.layers])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_graphs_are_steps_made_anew(name, dtype, device):
    """Three sub-caches, so that scores decide who stays."""
    model = model_on(name, device, dtype)
    (ours, kept), (expected, held) = (decoded(model, 3, device, graphs=x) for x in (True, False))
    require_agreement(ours, expected, torch.float32)
    same = torch.cat([(x == y).flatten() for x, y in zip(kept, held, strict=True)])
    assert same.float().mean() > 0.9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_single_tokens_as_on_the_cpu(name, dtype, device):
    """One sub-cache loses the oldest tokens, whatever rounding says of scores."""
    exact, _ = decoded(exact_model(name), 1, "cpu", graphs=False)
    ours, _ = decoded(model_on(name, device, dtype), 1, device, graphs=True)
    require_agreement(ours, exact, dtype)
