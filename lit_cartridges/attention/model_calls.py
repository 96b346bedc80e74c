"""Each forward call of a frozen model has its own reading.

transformers lets a model's attention function be chosen by name. `attends_to_calls(model)` chooses ours for the length of
a ``with``. It knows nothing by itself: it asks the call that is running in this thread, and the call asks its reader.

    Reader.begin(keywords of the call) → CallReader, one per call → CallReader.attend(...), once per layer (see `readers`)

A reader reaches its call as the keyword ``reading`` of a forward call, or from `brings(model, reader)`, for callers such as
``model.generate`` that make the calls themselves. Neither passes through the layers, some of which drop keywords, nor is
it kept on the model, which other threads use at the same time: to those that are not inside the ``with`` themselves it is
the plain model. Inside, a call that was given no reader raises; so does one in which a layer did not ask, or more than once.

Shapes: B rows · T new tokens · M keys of the rows themselves · H query heads · K key-value heads · D head dim
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from lit_cartridges.attention import opaque
from lit_cartridges.attention.extras import known_extras
from lit_cartridges.attention.prefixed_cache import without_read_tokens
from lit_cartridges.attention.readers import CallReader, LayerCall, Reader
from lit_cartridges.attention.reading import PrefixCall, Reading
from lit_cartridges.models.readable import text_model

NAME = "lit_cartridges"
_UNSAID = "not given, as by the layers of Qwen2-MoE"


@dataclass(eq=False)
class _Call:
    model: nn.Module
    reader: CallReader
    asked: Counter[int] = field(default_factory=Counter)
    number: int | None = None
    """What `opaque` knows it by."""


@dataclass(frozen=True)
class _Brought:
    model: nn.Module
    reader: Reader
    outer: _Brought | None


@dataclass
class _Attached:
    """How often a model is inside `attends_to_calls`, over all threads, and how it becomes its own again."""

    count: int = 0
    restore: ExitStack = field(default_factory=ExitStack)


_running: ContextVar[_Call | None] = ContextVar("running forward call", default=None)
_brought: ContextVar[_Brought | None] = ContextVar("readers brought for the calls inside", default=None)
_inside: ContextVar[tuple[nn.Module, ...]] = ContextVar("models that this thread is inside of", default=())
_attached: WeakKeyDictionary[nn.Module, _Attached] = WeakKeyDictionary()
_lock = RLock()


def running_reader() -> CallReader | None:
    """The reader of the forward call that is running in this thread, if any is."""
    call = _running.get()
    return None if call is None else call.reader


def packed_call() -> _Call | None:
    """The call that is running in this thread, if it reads packed sequences and nobody looks on: what `opaque` can read."""
    call = _running.get()
    if call is None or not isinstance(call.reader, PrefixCall):
        return None
    reading = call.reader.reading
    return call if reading.lengths is not None and reading.observe is None else None


@contextmanager
def attends_to_calls(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``model`` attends as its calls' readers say; its own attention returns after the last thread's ``with``."""
    inner = text_model(model)
    with _lock:
        state = _attached.setdefault(inner, _Attached())
        if state.count == 0:
            _attach(model, inner, state.restore)
        state.count += 1
    token = _inside.set((*_inside.get(), inner))
    try:
        yield
    finally:
        _inside.reset(token)
        with _lock:
            state.count -= 1
            if state.count == 0:
                state.restore.close()


@contextmanager
def brings(model: PreTrainedModel, reader: Reader) -> Iterator[None]:
    """Every forward call of ``model`` that this thread makes inside reads by ``reader``, unless it is given another."""
    token = _brought.set(_Brought(text_model(model), reader, _brought.get()))
    try:
        yield
    finally:
        _brought.reset(token)


def continued_call() -> Callable[[], AbstractContextManager[None]]:
    """A ``with`` that makes the call that runs now the running one again, for layers that are recomputed later."""
    call = _running.get()

    @contextmanager
    def again() -> Iterator[None]:
        token = _running.set(call)
        try:
            yield
        finally:
            _running.reset(token)

    return again


def _attach(model: PreTrainedModel, inner: nn.Module, undo: ExitStack) -> None:
    before = inner.config._attn_implementation  # type: ignore[union-attr]
    inner.set_attn_implementation(NAME)  # type: ignore[operator]
    undo.callback(inner.set_attn_implementation, before)  # type: ignore[arg-type]
    _replace_forward(inner, lambda forward: _taking_readings(_read_by(forward, inner), inner), undo)
    for outer in {model, model.base_model} - {inner}:
        _replace_forward(outer, lambda forward: _taking_readings(forward, inner), undo)


def _reader_for(inner: nn.Module) -> Reader | None:
    """The reader that was brought for this model's calls last."""
    brought = _brought.get()
    while brought is not None and brought.model is not inner:
        brought = brought.outer
    return None if brought is None else brought.reader


def _replace_forward(module: nn.Module, wrapped: Callable[[Any], Any], undo: ExitStack) -> None:
    own = module.__dict__.get("forward")  # of a library that has replaced it too
    ours = wrapped(module.forward)
    module.forward = ours

    def give_back() -> None:
        if module.__dict__.get("forward") is not ours:
            return
        del module.forward
        if own is not None:
            module.forward = own

    undo.callback(give_back)


def _taking_readings(forward: Callable[..., Any], inner: nn.Module) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, reading: Reader | None = None, **keywords: Any) -> Any:
        keywords = without_read_tokens(keywords)
        with nullcontext() if reading is None else brings(inner, reading):  # type: ignore[arg-type]
            reader = _reader_for(inner)
            if isinstance(reader, Reading) and reader.num_tokens > 0:
                reader.place(keywords)  # what wraps the text model would count them itself
            return forward(*args, **keywords)

    return call


def _read_by(forward: Callable[..., Any], inner: Any) -> Callable[..., Any]:
    name = type(inner).__name__
    layers = set(range(inner.config.get_text_config().num_hidden_layers))

    @wraps(forward)
    def call(*args: Any, **keywords: Any) -> Any:
        reader = _reader_for(inner)
        if reader is None and inner in _inside.get():
            raise RuntimeError(
                f"{name} is inside reads_prefixes or reads_cascades, and this call brings no reading; pass "
                "reading=Reading(...), or make the call outside"
            )
        running = _Call(inner, (reader or Reading()).begin(keywords))
        token = _running.set(running)
        try:
            out = forward(*args, **keywords)
        finally:
            _running.reset(token)
            running.reader.end()
        if wrong := {
            layer: running.asked[layer] for layer in layers | set(running.asked) if running.asked[layer] != 1
        }:
            told = ", ".join(f"layer {layer} {times} times" for layer, times in sorted(wrong.items()))
            raise RuntimeError(
                f"the layers of {name} ask for their attention {told} in one call, and a cartridge is read once by each of "
                f"{len(layers)} layers; choose another model"
            )
        return out

    return call


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None | str = _UNSAID,
    **extras: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer (see its AttentionInterface).

    Args:
        query: [B, H, T, D], key and value: [B, K, M, D].
        attention_mask: [B, M], True where a key is real, or None.

    Returns:
        Output [B, T, H, D] and None (no attention weights).
    """
    call, layer = _running.get(), getattr(module, "layer_idx", None)
    name = type(module).__name__
    if call is None or layer is None:
        raise RuntimeError(
            f"{name} asked for its attention outside of a call that reads; a cartridge or a cascade is read by the text "
            "model alone, so pass text only"
        )
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; a model that reads a cartridge or a cascade takes "
            "a [batch, tokens] mask"
        )
    if getattr(module, "is_causal", True) is False:
        raise ValueError(
            f"layer {layer} ({name}) attends in both directions, and a cartridge is read causally"
        )
    if attention_mask is not None and attention_mask.shape[1] > key.shape[2]:
        attention_mask = attention_mask[:, -key.shape[2] :]  # without a cache, it covers the prefix as well
    call.asked[int(layer)] += 1
    asked = LayerCall(
        layer=int(layer),
        real=attention_mask,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=getattr(module, "sliding_window", None) if sliding_window == _UNSAID else sliding_window,  # type: ignore[arg-type]
        extras={name: x for name, x in extras.items() if x is not None},
    )
    # Under autocast the three may differ.
    key, value = key.to(query.dtype), value.to(query.dtype)
    return call.reader.attend(query, key, value, asked).transpose(1, 2).contiguous(), None


def _mask(*args: Any, **keywords: Any) -> Tensor | None:
    """[B, M] of padded rows: all that readers need, who know causality and windows themselves.

    Packed rows have no padding, and a device need not be asked whether their mask says so; nor by a reader that takes a single
    token's mask as it is.
    """
    reader = running_reader()
    if isinstance(reader, PrefixCall) and reader.reading.lengths is not None:
        return None
    given = keywords.get("attention_mask")
    if given is not None and keywords.get("q_length") == 1 and getattr(reader, "asks_no_device", False):
        return given[:, -1:]
    mask: Tensor | None = flash_attention_mask(*args, **keywords)
    return mask


def _attention(module: nn.Module, *args: Any, **keywords: Any) -> tuple[Tensor, None]:
    """`attention`, or of a layer that is compiled its operator."""
    handed: opaque.HandedOver | None = keywords.pop(opaque.KEYWORD, None)
    return (
        _uncompiled(module, *args, **keywords)
        if handed is None
        else _compiled(handed, module, *args, **keywords)
    )


def _compiled(
    handed: opaque.HandedOver,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None | str = _UNSAID,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Nothing here may ask which layer it is, or each would be compiled by itself."""
    window = getattr(module, "sliding_window", None) if sliding_window == _UNSAID else sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None or getattr(module, "is_causal", True) is False:
        raise ValueError("packed rows are read causally and without a mask")
    known = known_extras(LayerCall(layer=-1, real=None, scale=scale, window=None, extras=extras))
    ticket, *prefix = handed
    key, value = key.to(query.dtype), value.to(query.dtype)
    out, _ = opaque.attend(query, key, value, *prefix, known.sinks, ticket, scale, window, known.softcap)
    return out, None


_uncompiled = torch.compiler.disable(attention)
AttentionInterface.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
