"""torch.compile of a frozen model's layers in training steps; attention stays the operator of `attention.opaque`.

Layers of one kind share one graph: what differs between them, their weights and what they read, is an input of it. The
length of a row becomes a symbol with the second row. Whatever is no packed training row runs as it always did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_cartridges.attention import Reading, opaque
from lit_cartridges.attention.model_calls import packed_call
from lit_cartridges.errors import SettingError
from lit_cartridges.strategies.frozen_models import FrozenModel


def require_compilable(student: FrozenModel, strategy: Any) -> None:
    """
    Raises:
        SettingError: the model's layers gather, move or unpack their weights by code that a graph does not hold.
    """
    quantized = student.quantization_config or getattr(student.config(), "quantization_config", None)
    for is_so, what in (
        (
            getattr(strategy, "shards_frozen_models", False),
            f"{type(strategy).__name__} of stage 3 shards the layers",
        ),
        (
            student.device_map is not None,
            f"model.device_map={student.device_map!r} spreads them over devices",
        ),
        (quantized is not None, "the model is quantised"),
    ):
        if is_so:
            raise _refused(f"whole layers on one device are compiled, and {what}")


BACKEND = "inductor"
_RECORDING = "transformers.utils.output_capturing"


class CompiledLayers:
    """The compiled layers of one model.

    Raises:
        SettingError: the model has no layers that transformers knows.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._numbers = [number for layer in self.layers if (number := _number(layer)) is not None]
        if not self.layers or len(self._numbers) != len(self.layers):
            raise _refused(f"{type(model).__name__} has no layers that are known as such")
        self._traced = [torch.compile(x.forward, fullgraph=True, backend="eager") for x in self.layers]
        self._compiled = [torch.compile(x.forward, fullgraph=True, backend=BACKEND) for x in self.layers]

    @torch.no_grad()
    def try_out(self) -> None:
        """Trace the layers of a short row, which compiles nothing; inside of `reads_prefixes`.

        Raises:
            SettingError: they cannot be traced whole.
        """
        ids = torch.zeros(1, 5, dtype=torch.long, device=self.model.device)
        positions = torch.tensor([[0, 1, 2, 0, 1]], device=ids.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        try:
            with self._in_place(self._traced):
                self.model.base_model(
                    ids,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=False,
                    reading=Reading(lengths=(3, 2)),
                )
        except TypeError as error:  # no keywords of ours
            raise _refused(f"the layers of {type(self.model).__name__}: {_first_line(error)}") from error

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, packed rows pass the compiled layers."""
        with self._in_place(self._compiled):
            yield

    @contextmanager
    def _in_place(self, compiled: list[Callable[..., Any]]) -> Iterator[None]:
        own = [layer.__dict__.get("forward") for layer in self.layers]
        hooked = [hooks for layer in self.layers for hooks in _recording_hooks(layer)]
        recording = [dict(hooks) for hooks in hooked]
        for hooks in hooked:
            hooks.clear()
        for layer, number, one in zip(self.layers, self._numbers, compiled, strict=True):
            layer.forward = partial(_called, one, layer.forward, number)
        try:
            yield
        finally:
            for layer, forward in zip(self.layers, own, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward
            for hooks, before in zip(hooked, recording, strict=True):
                hooks.update(before)


def _called(
    compiled: Callable[..., Any],
    plain: Callable[..., Any],
    number: int,
    hidden: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if (call := packed_call()) is None:
        return plain(hidden, *args, **kwargs)
    handed = opaque.hand_over(call, number, hidden.device, hidden.dtype)
    try:
        return compiled(hidden, *args, **kwargs, **{opaque.KEYWORD: handed})
    except TorchDynamoException as error:
        raise _refused(f"layer {number} cannot be compiled: {_first_line(error)}") from error


def _recording_hooks(layer: torch.nn.Module) -> Iterator[dict[int, Any]]:
    """Of transformers, inside of the layer, once somebody has asked for attention weights: they cannot be traced."""
    for part in layer.modules():
        hooks = part._forward_hooks
        if part is not layer and hooks and all(x.__module__ == _RECORDING for x in hooks.values()):
            yield hooks


def _number(layer: torch.nn.Module) -> int | None:
    numbers = (getattr(part, "layer_idx", None) for part in layer.modules())
    return next((number for number in numbers if number is not None), None)


def _refused(why: str) -> SettingError:
    return SettingError(f"{why}; set it to false", {"model.compile_layers": True})


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
