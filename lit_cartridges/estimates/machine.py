"""What a machine does in a second, as far as a roofline needs it: matrix products, memory, links, launches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lit_cartridges.estimates import counts


def assumed(default: Any, what: str) -> Any:
    """A field, and what it says."""
    return field(default=default, metadata={"help": what})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One H100 SXM and what lies between many; every field is an option of `benchmarks.scaling`."""

    matmul_tflops: float = assumed(989, "dense bf16 matrix products, TFLOP/s, data sheet")
    matmul_share: float = assumed(0.4, "share of that which a step reaches")
    hbm_tb_s: float = assumed(3.35, "GPU memory, TB/s, data sheet")
    hbm_share: float = assumed(0.7, "share of that which decoding reaches")
    gpu_gb: float = assumed(80, "memory of a GPU, GB")
    reserved_gb: float = assumed(2, "of that for CUDA, NCCL and libraries, GB")
    fragmentation: float = assumed(0.1, "what the allocator loses, as a share of what is used")
    nvlink_gb_s: float = assumed(450, "NVLink of a GPU, per direction, GB/s, data sheet")
    network_gb_s: float = assumed(50, "InfiniBand per GPU (400 Gb/s), GB/s")
    pcie_gb_s: float = assumed(64, "PCIe 5 x16, per direction, GB/s")
    link_share: float = assumed(0.7, "share of NVLink, InfiniBand and PCIe that is reached")
    hop_us: float = assumed(2, "latency of a collective per GPU in it, µs")
    launch_ms: float = assumed(0.5, "launching a layer's kernels from Python, ms per forward call")
    gpus_per_node: int = assumed(8, "GPUs of a node")
    host_gb: float = assumed(2000, "CPU memory of a node, GB")

    def at_once(self, *seconds: float) -> float:
        """What takes so many seconds each, as far as they overlap: a GPU computes, moves and is launched at once."""
        return max(seconds)

    @property
    def flops_per_s(self) -> float:
        return self.matmul_tflops * 1e12 * self.matmul_share

    @property
    def hbm_bytes_per_s(self) -> float:
        return self.hbm_tb_s * 1e12 * self.hbm_share

    def gather_s(self, payload: float, gpus: int) -> float:
        """Until a payload that is spread over ``gpus`` is whole on each: rings over all links of a node at once."""
        nodes = -(-gpus // self.gpus_per_node)
        inside = counts.received_bytes(payload, min(gpus, self.gpus_per_node)) / (self.nvlink_gb_s * 1e9)
        across = counts.received_bytes(payload, nodes) / (self.gpus_per_node * self.network_gb_s * 1e9)
        return max(inside, across) / self.link_share + (gpus - 1) * self.hop_us * 1e-6

    def upload_s(self, payload: float) -> float:
        """From CPU memory to a GPU."""
        return payload / (self.pcie_gb_s * 1e9 * self.link_share)


class Processor(Machine):
    """A CPU, which does one after the other."""

    def at_once(self, *seconds: float) -> float:
        """Their sum."""
        return sum(seconds)
