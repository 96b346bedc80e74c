"""Where a step's time goes: every tensor operation is timed, and counted to the part of the library that called it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode

from lit_cartridges import losses
from lit_cartridges.attention import merged as merged_attention
from lit_cartridges.attention import parts as attention_parts

OVERHEAD = "Python, autograd and allocation between operations"
PRODUCTS = "frozen layers: matrix products"
OTHERS = "frozen layers: norms, rotary, SwiGLU, residuals"
_PARTS = [
    (attention_parts.PrefixPart, "attend", "attention to the cartridge: forward"),
    (attention_parts.PrefixPart, "gradients", "attention to the cartridge: backward"),
    (losses.TopKDistillation, "token_losses", "loss"),
    (losses.LanguageHead, "forward", "language head: forward"),
]
# However the library reads the sequences' own tokens: every part but the cartridge's.
for _part in vars(attention_parts).values():
    if hasattr(_part, "gradients") and _part not in (attention_parts.PrefixPart, attention_parts.Part):
        _PARTS.append((_part, "attend", "attention inside the sequences: forward"))
        _PARTS.append((_part, "gradients", "attention inside the sequences: backward"))
_MERGE = "merging the two attentions"
_LOSS = "loss, and language head backward"
_WRAPPERS = [(merged_attention.MergedAttention, _MERGE), (losses._ChunkedLoss, _LOSS)]


class _OpTimes(TorchDispatchMode):
    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.spans: list[str] = []
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = self.clock()
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        product = name in ("mm", "bmm", "addmm", "baddbmm")
        self.seconds[self.spans[-1] if self.spans else (PRODUCTS if product else OTHERS)] += (
            self.clock() - start
        )
        return out

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self.spans.append(name)
        try:
            yield
        finally:
            self.spans.pop()


def breakdown(
    step: Callable[[Callable[[str], Any]], None], *, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds by part. ``step`` gets a function ``span(name)`` for parts of its own."""
    times = _OpTimes(clock)
    with ExitStack() as stack:
        for owner, method, name in _PARTS:
            stack.enter_context(patch.object(owner, method, _spanned(getattr(owner, method), times, name)))
        for function, name in _WRAPPERS:
            for method in ("forward", "backward"):
                spanned = staticmethod(_spanned(getattr(function, method), times, name))
                stack.enter_context(patch.object(function, method, spanned))
        stack.enter_context(times)
        start = clock()
        step(times.span)
        total = clock() - start
    return {**times.seconds, OVERHEAD: total - sum(times.seconds.values())}


def _spanned(method: Callable[..., Any], times: _OpTimes, name: str) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with times.span(name):
            return method(*args, **kwargs)

    return wrapper
