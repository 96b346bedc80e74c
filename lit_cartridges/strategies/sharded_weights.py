"""A frozen model whose weights are spread over all processes, one layer at a time made whole (ZeRO-3, arXiv 1910.02054).

DeepSpeed keeps the shards (in GPU or CPU memory, or on disk) and gathers them; this module says when. Frozen weights need
less than ZeRO's own hooks give: no gradients, no optimizer, no reduction. So a layer is gathered before it runs
forward and let go after it, and gathered again when the backward pass first asks for one of its weights, which lets go
of the layer before. What autograd saves of a weight is not the weight but where to find it (`saving`), so nothing of a
layer outlives its turn.

Deviation from ZeRO-3: the next layer is not fetched ahead.

Whole on every process: the output head, which each loss and each generated token reads entirely, with the embedding
where both are one tensor; and parameters outside of layers (the last norm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def sharded_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that are gathered one at a time: the layers, and the embedding unless it is the output head too.

    Raises:
        ValueError: the model has no layers that transformers marks as such, or they share weights with each other.
    """
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers to shard; choose stage 0, 1 or 2, which keep the frozen model whole"
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        layers.insert(0, embedding)
    parameters = [id(parameter) for layer in layers for parameter in layer.parameters()]
    if len(set(parameters)) < len(parameters):
        raise ValueError(
            f"{type(model).__name__} has layers that share weights or lie inside of each other, which cannot be sharded "
            "one at a time; choose stage 0, 1 or 2, which keep the frozen model whole"
        )
    return layers


def shard(module: nn.Module, config: dict[str, Any], store: Any = None) -> None:
    """Keep this process's share of the module's parameters, which are whole now, as ``config`` (DeepSpeed's) says.

    ``store`` is where shards go that are offloaded to NVMe (see `nvme_shards`).
    """
    import deepspeed

    dtype = next(module.parameters()).dtype
    deepspeed.zero.Init(module=module, config_dict_or_path=config, dtype=dtype, param_swapper=store)


class ShardedWeights:
    """Gathers and lets go of the sharded modules of one model, from its construction to `close`.

    Args:
        model: its `sharded_modules` have been through `shard`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._units = [_Unit(module, list(module.parameters())) for module in sharded_modules(model)]
        self._whole: _Unit | None = None
        # By the address of their memory, the parameters of the unit that is whole now.
        self._addresses: dict[int, list[tuple[_Unit, nn.Parameter]]] = {}
        # Not hooks, which a recomputing backward pass would not call.
        for unit in self._units:
            unit.module.forward = partial(self._run, unit, unit.module.forward)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """For a forward call with gradients: what autograd keeps of a weight is where to find it."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    def release(self) -> None:
        """Let go of the layer that the backward pass read last."""
        if self._whole is not None:
            self._whole.scatter()
            self._whole = None
            self._addresses.clear()

    def close(self) -> None:
        """Give the modules their own forward calls back; the weights stay where they are."""
        self.release()
        for unit in self._units:
            del unit.module.forward

    def _gather(self, unit: _Unit) -> None:
        if self._whole is unit:
            return
        self.release()
        unit.gather()
        self._whole = unit
        for parameter in unit.parameters:
            if parameter.numel():
                address = parameter.data.untyped_storage().data_ptr()
                self._addresses.setdefault(address, []).append((unit, parameter))

    def _run(self, unit: _Unit, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._gather(unit)
        try:
            return forward(*args, **kwargs)
        finally:
            # A backward pass that runs the layer again is about to read its weights.
            if self._whole is unit and not _in_backward():
                self.release()

    def _pack(self, tensor: Tensor) -> Tensor | _Weight:
        """A view of a gathered weight becomes its place; anything else stays what it is."""
        for unit, parameter in self._addresses.get(tensor.untyped_storage().data_ptr(), ()):
            offset = int(tensor.storage_offset() - parameter.data.storage_offset())
            if 0 <= offset < parameter.numel() and tensor.dtype == parameter.dtype:
                return _Weight(unit, parameter, tuple(tensor.shape), tensor.stride(), offset)
        return tensor

    def _unpack(self, saved: Tensor | _Weight) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        self._gather(saved.unit)
        whole = saved.parameter.data
        return whole.as_strided(saved.shape, saved.stride, whole.storage_offset() + saved.offset)


def _in_backward() -> bool:
    """Is this the thread of a backward pass?"""
    return bool(torch._C._current_graph_task_id() != -1)  # as torch.utils.checkpoint asks


@dataclass(eq=False)
class _Unit:
    """What is gathered at a time."""

    module: nn.Module
    parameters: list[Any]

    @torch.no_grad()
    def gather(self) -> None:
        self.parameters[0].all_gather(param_list=self.parameters)

    @torch.no_grad()
    def scatter(self) -> None:
        self.parameters[0].partition(param_list=self.parameters)


@dataclass(eq=False)
class _Weight:
    """A view of a weight: shape and stride in elements, offset in elements from the weight's first."""

    unit: _Unit
    parameter: nn.Parameter
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
