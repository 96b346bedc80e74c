"""The machines that an estimate knows: datasheets times the share that was measured, or what this machine does now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lit_cartridges.estimates.machine import Machine, Processor
from lit_cartridges.estimates.shapes import Shape

AUTO = "auto"
# Of this package on one H200, 27 November 2026, a 3B shape in bf16: optimizer steps reached 22% of the datasheet's matrix
# products with micro-batches of 2,048 tokens, or 30% of what large products reached; decoding 28 layers took 47 ms a token.
MEASURED_SHARE, _MEASURED_SHARE_OF_PRODUCTS, _MEASURED_LAUNCH_MS = 0.22, 0.30, 47 / 28
# On a CPU, `recipes/pocket.yaml`: what a step reached of the products measured just before.
_CPU_SHARE_OF_PRODUCTS = 0.4
# What a layer takes in one pass, whatever its size, in additions of a few numbers: on that CPU (0.85 ms) as on the H200.
_ADDITIONS_PER_LAYER = 400


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A datasheet: dense matrix products in 16 bits and in fp32, TFLOP/s; memory, TB/s and GB; link to its neighbours, GB/s."""

    bf16_tflops: float
    fp32_tflops: float
    memory_tb_s: float
    memory_gb: float
    link_gb_s: float


CHIPS = {
    "h200": Chip(bf16_tflops=989, fp32_tflops=67, memory_tb_s=4.8, memory_gb=141, link_gb_s=450),
    "h100": Chip(bf16_tflops=989, fp32_tflops=67, memory_tb_s=3.35, memory_gb=80, link_gb_s=450),
    "a100": Chip(bf16_tflops=312, fp32_tflops=19.5, memory_tb_s=2.04, memory_gb=80, link_gb_s=300),
    "a100-40gb": Chip(bf16_tflops=312, fp32_tflops=19.5, memory_tb_s=1.56, memory_gb=40, link_gb_s=300),
    "l40s": Chip(bf16_tflops=362, fp32_tflops=91.6, memory_tb_s=0.864, memory_gb=48, link_gb_s=32),
    "l4": Chip(bf16_tflops=121, fp32_tflops=30.3, memory_tb_s=0.3, memory_gb=24, link_gb_s=32),
}
CHOICES = (AUTO, "cpu", *CHIPS)


def machine_of(chip: str, shape: Shape, *, element_bytes: int, row_tokens: int) -> tuple[Machine, list[str]]:
    """The machine, and what is assumed of it, a sentence each.

    Args:
        chip: one of `CHOICES`; "auto" is what this process would train on.
        row_tokens: of a packed row, the height of a step's matrix products.
    """
    if chip in CHIPS:
        return _of_datasheet(chip, CHIPS[chip], element_bytes)
    cuda = chip == AUTO and torch.cuda.is_available()
    return _measured(torch.device("cuda" if cuda else "cpu"), shape, element_bytes, row_tokens)


def _of_datasheet(name: str, chip: Chip, element_bytes: int) -> tuple[Machine, list[str]]:
    tflops, kind = (chip.fp32_tflops, "fp32") if element_bytes == 4 else (chip.bf16_tflops, "bf16")
    machine = Machine(
        matmul_tflops=tflops,
        matmul_share=MEASURED_SHARE,
        hbm_tb_s=chip.memory_tb_s,
        gpu_gb=chip.memory_gb,
        nvlink_gb_s=chip.link_gb_s,
        launch_ms=_MEASURED_LAUNCH_MS,
    )
    own = "on this chip" if name == "h200" else "on an H200, and assumed here"
    return machine, [
        f"{name}: {tflops:g} TFLOP/s of {kind} products and {chip.memory_tb_s:g} TB/s by its datasheet",
        f"of the products a step reaches {MEASURED_SHARE:.0%}, and a call of a layer takes {_MEASURED_LAUNCH_MS:.1f} ms at the "
        f"least: measured {own}",
        f"of the memory's speed decoding reaches {machine.hbm_share:.0%}: assumed",
    ]


def _measured(
    device: torch.device, shape: Shape, element_bytes: int, row_tokens: int
) -> tuple[Machine, list[str]]:
    """About a second of products as a step has them, of copies and of small operations."""
    dtype = torch.float32 if element_bytes == 4 else torch.bfloat16
    rows, wide = torch.randn(min(row_tokens, 4096), shape.width), torch.randn(shape.width, shape.mlp_width)
    left, right = rows.to(device, dtype), wide.to(device, dtype)
    products = 2 * rows.shape[0] * shape.width * shape.mlp_width / _seconds(lambda: left @ right, device)
    block = torch.zeros(2**25, dtype=torch.uint8, device=device)
    other = torch.ones_like(block)
    copies = 2 * block.nbytes / _seconds(lambda: other.copy_(block), device)
    small = torch.zeros(8, device=device)
    launch_ms = _ADDITIONS_PER_LAYER * _seconds(lambda: small + 1, device) * 1e3
    cpu = device.type == "cpu"
    share = _CPU_SHARE_OF_PRODUCTS if cpu else _MEASURED_SHARE_OF_PRODUCTS
    total = _cpu_bytes() if cpu else torch.cuda.get_device_properties(device).total_memory
    machine = (Processor if cpu else Machine)(
        matmul_tflops=products / 1e12,
        matmul_share=share,
        hbm_tb_s=copies / 1e12,
        gpu_gb=total / 1e9,
        reserved_gb=resident_bytes() / 1e9 if cpu else Machine.reserved_gb,
        launch_ms=launch_ms,
    )
    name = f"this CPU, {torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name(device)
    where = "on a CPU with the bundled model" if cpu else "on an H200"
    return machine, [
        f"{name}: {products / 1e12:.3g} TFLOP/s of products of this model, {copies / 1e12:.3g} TB/s of copies and "
        f"{launch_ms:.2g} ms to call a layer at the least, measured just now",
        f"of these products a step reaches {share:.0%}: measured {where}",
    ]


def resident_bytes() -> int:
    """Of this process: the libraries that a run has loaded as well."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # not on Linux
        return int(Machine.reserved_gb * 1e9)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _seconds(work: Any, device: torch.device, *, budget_s: float = 0.3) -> float:
    """Of one call: the mean, so that what other processes take here is taken from the run as well."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        work()
    wait()
    begun, calls = perf_counter(), 0
    while perf_counter() - begun < budget_s:
        for _ in range(4):
            work()
        wait()
        calls += 4
    return (perf_counter() - begun) / calls
