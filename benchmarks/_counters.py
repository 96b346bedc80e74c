"""Counts what passes torch's dispatcher: bytes that live, FLOPs, payloads of collectives."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations make, as long as they live: ``now``, and the most at a time, ``peak``.

    Args:
        known: tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = list(known)
        self._storages: dict[int, Any] = {x.untyped_storage()._cdata: None for x in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self._see(x.untyped_storage())
        return out

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def forget(_: Any) -> None:
            self.now -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


class Flops(FlopCounterMode):
    """torch's counter, with the CPU's fused attention, which it does not know; ``total`` since the first entering."""

    def __init__(self) -> None:
        aten = torch.ops.aten
        super().__init__(
            display=False,
            custom_mapping={
                aten._scaled_dot_product_flash_attention_for_cpu: _attention,
                aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            },
        )
        # Sorting FLOPs by module does not survive the `torch.autograd.grad` inside of our loss.
        self.mod_tracker: Any = _NoModules()
        self.total = 0

    def __exit__(self, *args: Any) -> Any:
        self.total += self.get_total_flops()
        return super().__exit__(*args)


class Collectives(TorchDispatchMode):
    """Payloads of torch.distributed's collectives in bytes, ``payload[phase, name]``: what is made whole, or summed."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.payload: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [x for x in tree_iter(args[0]) if isinstance(x, Tensor)]
            name = func._schema.name.removeprefix("c10d::").strip("_")
            self.payload[self.phase, name] += sum(x.numel() * x.element_size() for x in tensors)
        return func(*args, **(kwargs or {}))


class _NoModules:
    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *args: Any) -> None: ...


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)  # shapes, as torch's counter hands them over


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)
