"""The cascade's attention as it runs on a device, by the Triton kernels on CUDA, against fp32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_cartridges.cascade.chunk_attention import attend
from lit_cartridges.cascade.triton_attention import attend_here, suits
from tests.cascade.kernel_cases import CASES, Case
from tests.gpu.agreement import CARD, TOLERANCE, require_agreement

LARGE = {
    "a stride behind a cache": Case(q=1024, held=4100, KV=2, G=4, D=128, V=128),
    "rows of a stride": Case(R=3, q=300, held=2000, unused=700, padding=20, window=900, D=96, V=96),
    "one query behind a cache": Case(q=1, held=16_384, KV=8, G=4, D=128, V=128),
}
ALL = CASES | LARGE


@pytest.mark.parametrize("device", ["cpu", CARD])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_output_and_sums(name, dtype, device):
    """Sums are as close in 16 bits as in fp32, given what 16 bits leave of queries and keys."""
    case = replace(ALL[name], dtype=dtype)
    rounded, options = case.tensors(), case.options()
    exact, exact_sums = attend(*(x.float() for x in rounded), **options)
    given = tuple(x.to(device) for x in rounded)
    if device == "cuda":
        pytest.importorskip("triton", reason="triton is not installed; CUDA builds of torch bring it")
        assert suits(*given)
    layout = options["layout"]
    moved = {
        key: x.to(device) if isinstance(x, torch.Tensor) else x
        for key, x in vars(layout).items()
        if key in layout.__dataclass_fields__
    }
    sinks = options["extras"].sinks
    options |= {
        "layout": type(layout)(**moved),
        "extras": options["extras"]._replace(sinks=None if sinks is None else sinks.to(device)),
    }
    out, sums = attend_here(*given, **options)
    real = layout.weights[:, None, :, None] > 0
    require_agreement(out.cpu().where(real, 0), exact.where(real, 0), dtype)
    require_agreement(sums, exact_sums, torch.float32)
