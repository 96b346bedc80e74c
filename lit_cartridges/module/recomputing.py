"""Gradient checkpointing of a frozen model: its layers run again in the backward pass to keep less until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_cartridges.attention.model_calls import continued_call


@contextmanager
def recomputes_layers(model: PreTrainedModel) -> Iterator[None]:
    """Inside the ``with``, every layer keeps its inputs only.

    transformers' own switch works in training mode alone, and a frozen model stays in eval mode: no dropout, and the
    same layers generate with a cache between two training steps.

    Raises:
        ValueError: the model has no layers that transformers knows how to recompute.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"gradient_checkpointing=true: {type(model).__name__} has no layers to recompute; set it to false"
        )
    # A layer may have a forward call of its own already, such as one that gathers its weights first.
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer reads the second time as in the call that runs it now, whichever thread the backward pass is in."""
    again = continued_call()
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is drawn in eval mode, and a graph's generators cannot be asked
        context_fn=lambda: (nullcontext(), again()),
        **kwargs,
    )
