"""Shards of a frozen model on an NVMe disk: DeepSpeed's asynchronous reader and writer, sized for one model.

A process writes its shards once, while the model loads, and reads those of one layer before that layer is gathered.
Memory holds no more of them than one layer's. DeepSpeed leaves shards below 1 MiB in CPU memory, where it does not pay
to fetch them. It compiles its reader on first use, which takes libaio's headers, a C++ compiler and about two minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

_SMALLEST_BYTES = 1024**2


def require_nvme(folder: str) -> None:
    """Fail before a model is loaded where shards cannot be kept in ``folder``.

    Raises:
        ValueError: no such folder, or libaio is missing.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not Path(folder).is_dir():
        raise ValueError(
            f"strategy.nvme_path={folder!r} is no folder of this machine; set it to one on an NVMe disk"
        )
    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ValueError(
            "strategy.offload_params_device='nvme' needs libaio with its headers and a C++ compiler, with which DeepSpeed "
            "builds its reader: apt-get install libaio-dev g++; or set offload_params_device to cpu"
        )


def nvme_shards(modules: Sequence[nn.Module], *, config: dict[str, Any]) -> Any:
    """Where `shard` puts the shards of ``modules``, if ``config`` (DeepSpeed's, of stage 3) offloads to NVMe; else None.

    Args:
        modules: what is sharded and gathered one at a time; may be on the meta device still.
    """
    offload = config["zero_optimization"].get("offload_param", {})
    if offload.get("device") != "nvme":
        return None
    from deepspeed import comm
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import AsyncPartitionedParameterSwapper

    dtype = next(modules[0].parameters()).dtype
    shards = [[-(-p.numel() // comm.get_world_size()) for p in module.parameters()] for module in modules]
    large = [[n for n in sizes if n * dtype.itemsize >= _SMALLEST_BYTES] for sizes in shards]
    buffers = {
        "buffer_count": max(1, *map(len, large)),
        "buffer_size": max((n for sizes in large for n in sizes), default=1),
    }
    sized = {**config["zero_optimization"], "offload_param": {**offload, **buffers}}
    return AsyncPartitionedParameterSwapper(DeepSpeedConfig({**config, "zero_optimization": sized}), dtype)
