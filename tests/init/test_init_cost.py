"""Seconds and memory of an init, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.init.init_cost import measured_init


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_cost_of_an_init_is_its_own(device):
    """64 MB for a moment; before and after it, and what had been held before, do not count."""
    held = torch.ones(8_000_000, device=device)  # 32 MB
    del held
    with measured_init(torch.device(device)) as cost:
        torch.ones(16_000_000, device=device).sum().item()
    torch.ones(32_000_000, device=device).sum().item()
    assert 0 < cost.seconds < 60
    assert 60e6 < cost.figures["init/peak_memory_bytes"] < 100e6
    with measured_init(torch.device(device)) as cheap:
        torch.ones(1000, device=device)
    assert cheap.peak_memory_bytes < 10e6, "the mark has been set back"
