"""A CUDA device that is not there: tensors that say they lie on ``cuda:0`` and are computed on the CPU.

For machines without a card. What it finds: operations on tensors of two devices, arrays taken from a device's tensor, tensors
made on the wrong device, and branches that ask for a device of type ``cuda``. What it cannot find: anything about kernels,
their speed, their memory or their rounding. CUDA's flash attention is answered by `CudaFlash`, which refuses what that refuses;
there are no graphs.

`pretend_cuda` is entered by a test. Within, the device "cuda" works in whatever makes or moves a tensor, `torch.cuda` answers for
one card, and each wait for the device is counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from lit_cartridges.attention import kernels
from lit_cartridges.models import step_graphs
from tests.attention.cuda_flash import CudaFlash
from tests.dispatched import WAITS

# What torch takes the card for: of a type that needs no driver, and of an index that nobody else uses.
_HERE, _AWAY = torch.device("cpu"), torch.device("meta", 7)
_CARD = torch.device("cuda", 0)
_BYTES = 141 * 10**9
_aten = torch.ops.aten
# CUDA's own exceptions to "all tensors on the same device".
_CROSSING = {
    _aten.copy_,
    _aten._to_copy,
    _aten.index,
    _aten.index_put,
    _aten.index_put_,
    _aten._index_put_impl_,
}
_ABOUT_DEVICES = {torch.device, torch.get_device_module}
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_TO_ARRAYS = {Tensor.numpy, Tensor.__array__}


class OnCard(Tensor):
    """Says that it lies on the card; torch takes it for one of the meta device; its numbers are ``held``'s."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made: OnCard = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=_AWAY
        )
        made.held = held
        return made

    device = property(lambda self: _CARD)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a card's tensor after the card is gone")


def _copies_and_waits(packet: Any, args: Any, kwargs: Any, tensors: list[Tensor], to_card: bool) -> bool:
    """Whether numbers pass between CPU and card, and the CPU waits for them; or their count is the shape of the result."""
    if packet in (_aten._to_copy, _aten.copy_):
        if kwargs.get("non_blocking") or True in args[2:3]:
            return False
        return isinstance(tensors[-1], OnCard) != (
            to_card if packet is _aten._to_copy else isinstance(tensors[0], OnCard)
        )
    if packet in (_aten.index, _aten.index_put, _aten.index_put_):
        places = [x for x in args[1] if x is not None]
        return any(x.dtype == torch.bool or not isinstance(x, OnCard) for x in places)
    return (
        packet is _aten.repeat_interleave
        and kwargs.get("output_size") is None
        and isinstance(args[-1], Tensor)
    )


class Waits(Counter[str]):
    """How often the CPU waited for the card, by the operation; ``refused`` raises where it would."""

    refused = False

    def count(self, name: str) -> None:
        self[name] += 1
        if self.refused:
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        away = [x for x in tensors if isinstance(x, OnCard)]
        asked = kwargs.get("device")
        to_card = bool(away) if asked is None else asked == _AWAY
        if not away and not to_card:
            return func(*args, **kwargs)
        if away and any(x.is_meta and not isinstance(x, OnCard) for x in tensors):
            raise RuntimeError(
                f"{func} by a list of numbers, which no pretended card can read; give a tensor"
            )
        packet = func.overloadpacket
        if away and packet not in _CROSSING and any(x.ndim and not isinstance(x, OnCard) for x in tensors):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu"
            )
        if packet is _aten.index and not isinstance(args[0], OnCard):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        if packet.__name__ in WAITS or _copies_and_waits(packet, args, kwargs, tensors, to_card):
            self.waits.count(packet.__name__)
        if asked == _AWAY:
            kwargs["device"] = _HERE
        held_args, held_kwargs = tree_map_only(OnCard, lambda x: x.held, (args, kwargs))
        if packet is _aten.histc and not held_args[0].is_floating_point():  # which the CPU does not count
            out = func(held_args[0].float(), *held_args[1:], **held_kwargs).to(held_args[0].dtype)
        elif (
            func is _aten.bmm.dtype
        ):  # which the CPU has for no dtypes; its operands are 16 bits wide, its result fp32
            left, right, dtype = held_args
            assert left.dtype == right.dtype != dtype == torch.float32
            out = torch.bmm(left.float(), right.float())
        else:
            out = func(*held_args, **held_kwargs)
        if not to_card:
            return out
        out = tree_map(lambda x: OnCard(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if away else out


class _Names(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ABOUT_DEVICES:
            return func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return args[0]
        if args and isinstance(args[0], OnCard):
            if func in _TO_ARRAYS:
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            if func is Tensor.tolist:
                self.waits.count("tolist")
                return args[0].held.tolist()
        if func is Tensor.cuda:
            return args[0].to(_AWAY)
        if func == Tensor.data.__set__ and all(isinstance(x, OnCard) for x in args):
            args[0].held = args[1].held
        args, kwargs = tree_map(_place, (args, {k: v for k, v in kwargs.items() if k != "pin_memory"}))
        if func in _FROM_DATA:
            like = args[0] if func is Tensor.new_tensor else None
            place = kwargs.pop("device", _AWAY if isinstance(like, OnCard) else None)
            if isinstance(args[-1], OnCard):
                return args[-1].to(device=place, dtype=kwargs.get("dtype"))
            made = (
                func(*args, **kwargs)
                if like is None
                else torch.tensor(*args[1:], **{"dtype": like.dtype} | kwargs)
            )
            return made if place is None else made.to(place)
        return func(*args, **kwargs)


def _place(x: Any) -> Any:
    if isinstance(x, torch.device):
        return _AWAY if x.type == "cuda" else x
    return _AWAY if isinstance(x, str) and (x == "cuda" or x.startswith("cuda:")) else x


@contextmanager
def pretend_cuda(**answers: Any) -> Iterator[Waits]:
    """Waits for the device, by the operation; ``answers`` stand for functions of `torch.cuda` beside the usual ones."""
    waits = Waits()
    known = SimpleNamespace(
        name="NVIDIA H200", total_memory=_BYTES, major=9, minor=0, multi_processor_count=132,
        shared_memory_per_block_optin=232_448,
    )  # fmt: skip

    def synchronize(device: Any = None) -> None:
        waits["synchronize"] += 1

    class Event:
        def record(self, stream: Any = None) -> None:
            return None

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            waits["Event.synchronize"] += 1

    class Stream:
        def synchronize(self) -> None:
            waits["Stream.synchronize"] += 1

    def sync_debug_mode(mode: Any) -> None:
        waits.refused = mode == "error"

    usual = {
        "Event": Event,
        "set_sync_debug_mode": sync_debug_mode,
        "set_device": lambda device: None,
        "current_stream": lambda device=None: Stream(),
        "get_rng_state": lambda device=None: torch.empty(0, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "memory_stats": lambda device=None: {},
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: known.name,
        "get_device_capability": lambda device=None: (known.major, known.minor),
        "get_device_properties": lambda device=None: known,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "mem_get_info": lambda device=None: (2**24, _BYTES),
    }
    with ExitStack() as stack:
        # Modes are a thread's own, and transformers loads weights in threads.
        stack.enter_context(patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))
        for name, answer in (usual | answers).items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        names, backward = _Names(waits), torch.autograd._engine_run_backward

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            with names:  # which torch leaves for the call that it is asked about
                return backward(*args, **kwargs)

        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", run_backward))
        stack.enter_context(patch.object(kernels, "has_flash", lambda device: device.type == "cuda"))
        stack.enter_context(patch.object(step_graphs, "captures", lambda device: False))
        for mode in (CudaFlash(), _Operations(waits), names):
            stack.enter_context(mode)
        yield waits
