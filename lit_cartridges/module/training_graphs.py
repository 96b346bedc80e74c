"""Forward and backward pass of a micro-batch as one CUDA graph for each shape of padded rows (`data.bucketed`).

Data flow: batch → padded to its bucket → copied into the bucket's slot, tensors that stay where they are → the step, which reads
and writes there alone: run, captured when the bucket comes again, replayed from then on (`StepGraphs`) → losses, and gradients,
which the loss hands to the cartridge when somebody calls its ``backward()``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from lit_cartridges.attention.reading import FixedLengthsError
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.data.bucketed import Bucket
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import Targets, chunked_loss
from lit_cartridges.models.step_graphs import StepGraphs
from lit_cartridges.module.packed_forward import hidden_behind, teacher_hidden
from lit_cartridges.module.recomputing import recomputes_layers

MOST = 32
"""Graphs at a time; the one that was not used for longest makes room. All of them share their memory."""


def require_capturable(module: Any, trainer: Any) -> None:
    """
    Raises:
        SettingError: gradients pass through a strategy that a graph does not know, or layers are compiled or spread.
    """
    strategy = trainer.strategy
    for is_so, what in (
        (
            not isinstance(strategy, SingleDeviceStrategy),
            f"{type(strategy).__name__} takes part in the backward pass",
        ),
        (module.compile_layers, "model.compile_layers=True is another way to fewer launches"),
        (
            module._student.device_map is not None,
            f"model.device_map={module._student.device_map!r} spreads layers over devices",
        ),
    ):
        if is_so:
            raise SettingError(
                f"a graph holds a whole step on one device, and {what}; set one of the two to its default",
                {"model.cuda_graphs": True},
            )


@dataclass(kw_only=True)
class _Slot:
    """What the steps of one bucket read and write.

    Args:
        batch: padded.
        padding: [answers], True where an answer is padding.
        weight: of each answer's loss, a single number.
        loss, token_losses, nll: as `losses_and_gradients` gives them.
    """

    batch: PackedBatch
    padding: Tensor
    weight: Tensor
    loss: Tensor
    token_losses: Tensor
    nll: Tensor

    @classmethod
    def like(cls, batch: PackedBatch) -> _Slot:
        """Of a padded batch's bucket."""
        own: dict[str, Any] = {name: x.clone() for name, x in _tensors(batch)}
        targets: dict[str, Any] = {name: x.clone() for name, x in _tensors(batch.targets)}
        one, row = (batch.input_ids.new_zeros(n, dtype=torch.float32) for n in ((), len(batch.target_rows)))
        return cls(
            batch=replace(batch, **own, targets=Targets(**targets), stream=None, stream_state=None),
            padding=row.bool(),
            weight=one,
            loss=one.clone(),
            token_losses=row,
            nll=row.clone(),
        )

    def take(self, batch: PackedBatch, answers: int, weight: float) -> None:
        for mine, given in ((self.batch, batch), (self.batch.targets, batch.targets)):
            for name, x in _tensors(given):
                getattr(mine, name).copy_(x)
        self.padding[:answers].fill_(False)
        self.padding[answers:].fill_(True)
        self.weight.fill_(weight)


class TrainingGraphs:
    """Of one `LitCartridge`, whose student and cartridge are there and stay on their device."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.graphs = StepGraphs(
            module.student, steps="training steps", same="losses and gradients are the same"
        )
        self._slots: OrderedDict[Bucket, _Slot] = OrderedDict()
        self._trained: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._anchor = torch.zeros((), device=module.student.device, requires_grad=True)

    def losses(self, batch: PackedBatch, weight: float) -> tuple[Tensor, Tensor, Tensor] | None:
        """The batch's loss times ``weight``, whose ``backward()`` adds the gradients to those of the cartridge's parameters; and
        per answer token [answers] the objective and the NLL, until the next call. None where there are no graphs."""
        if self.graphs.refused is not None:
            return None
        module, answers, bucket = self._module, len(batch.target_rows), Bucket.of(batch)
        if any(x._backward_hooks or x._post_accumulate_grad_hooks for x in module.cartridge.parameters()):
            self.graphs.refuse("hooks wait for the gradients of the cartridge's parameters")
            return None
        if module.objective.needs_teacher_hidden:  # who reads chunks of any length, before the graph
            known = teacher_hidden(module.frozen_teacher, batch)
            batch = replace(batch, targets=replace(batch.targets, teacher_hidden=known))
        padded = bucket.padded(batch)
        slot = self._slot(bucket, padded)
        slot.take(padded, answers, weight)
        version = self._version()
        try:
            # The slot by itself, not its bucket: one that was given back and made anew lies elsewhere.
            self.graphs.run(lambda: self._step(slot, bucket), kind=id(slot), version=version)
        except FixedLengthsError as error:
            self.graphs.refuse(str(error))
        if self.graphs.refused is not None:
            self._slots.clear()
            return None
        loss: Tensor = _Replayed.apply(self._anchor, slot.loss, self)
        return loss, slot.token_losses[:answers], slot.nll[:answers]

    def _slot(self, bucket: Bucket, padded: PackedBatch) -> _Slot:
        if bucket not in self._slots:
            self._slots[bucket] = _Slot.like(padded)
        self._slots.move_to_end(bucket)
        if len(self._slots) > MOST:
            _, slot = self._slots.popitem(last=False)
            self.graphs.forget(id(slot))
        return self._slots[bucket]

    def _version(self) -> Hashable:
        """What a graph has taken for granted: where the cartridge lies, and the numbers of an objective of one's own."""
        cartridge, objective = self._module.cartridge, self._module.objective
        trained = [x for x in cartridge.parameters() if x.requires_grad]
        if [id(x) for x in trained] != [id(x) for x in self._trained]:
            self._trained, self._gradients = trained, [torch.zeros_like(x) for x in trained]
        held = (*cartridge.parameters(), *cartridge.buffers())
        return tuple(x.data_ptr() for x in (*held, *self._gradients)), repr(vars(objective))

    def _step(self, slot: _Slot, bucket: Bucket) -> None:
        given = losses_and_gradients(
            self._module, slot.batch, padding=slot.padding, weight=slot.weight, longest=bucket.longest
        )
        slot.loss.copy_(given[0])
        slot.token_losses.copy_(given[1])
        slot.nll.copy_(given[2])
        for gradient, of in zip(self._gradients, given[3], strict=True):
            gradient.copy_(of)

    @torch.no_grad()
    def add_gradients(self, factor: Tensor) -> None:
        """Those of the last step, times ``factor``, to the parameters' own."""
        if any(x.grad is None for x in self._trained):
            for x, new in zip(self._trained, torch._foreach_mul(self._gradients, factor), strict=True):
                x.grad = new if x.grad is None else x.grad + new
            return
        torch._foreach_mul_(self._gradients, factor)
        torch._foreach_add_([x.grad for x in self._trained if x.grad is not None], self._gradients)


class _Replayed(torch.autograd.Function):
    """A loss whose backward pass has been made already."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: Tensor, graphs: TrainingGraphs) -> Tensor:
        ctx.graphs = graphs
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        ctx.graphs.add_gradients(grads[0])
        return None, None, None


def losses_and_gradients(
    module: Any, batch: PackedBatch, *, padding: Tensor, weight: Tensor, longest: int | None
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Of a padded batch: loss times ``weight``, the objective and the NLL per answer token [answers], and the gradients of the
    cartridge's parameters that are trained.

    Args:
        padding, weight: as in a slot.
        longest: as in `Reading`.
    """
    cartridge: Cartridge = module.cartridge
    with torch.no_grad():
        keys, values = cartridge.tensors(dtype=module.student.dtype)
        biases = cartridge.biases()
    # Leaves of their own: those of the parameters belong to a stream that a capture does not know.
    sides = [None if x is None else [y.detach().requires_grad_() for y in x] for x in (keys, values, biases)]
    with torch.enable_grad(), ExitStack() as stack:
        if module.gradient_checkpointing:
            stack.enter_context(recomputes_layers(module.student))
        hidden = hidden_behind(
            module.student, batch, keys=sides[0] or [], values=sides[1], biases=sides[2], longest=longest
        ).masked_fill(padding[:, None], 0)
        total, token_losses, nll = chunked_loss(
            *(hidden, batch.targets, module.objective, module.head),
            teacher_head=module.teacher_head,
            chunk_tokens=module.loss_chunk_tokens,
        )
        leaves = [x for side in sides for x in side or []]
        gradients = torch.autograd.grad(total, leaves, weight, materialize_grads=True)
    trained = [p for side in _trainable(cartridge) for p in side]
    of_trained = [
        x[:, cartridge.num_frozen_tokens :]
        for x, p in zip(gradients, trained, strict=True)
        if p.requires_grad
    ]
    token_losses, nll = (x.masked_fill(padding, 0) for x in (token_losses, nll))
    return token_losses.sum() * weight, token_losses, nll, of_trained


def _trainable(cartridge: Cartridge) -> list[Any]:
    biases = cartridge.trainable_biases
    return [cartridge.trainable_keys, cartridge.trainable_values, *([] if biases is None else [biases])]


def _tensors(x: Any) -> list[tuple[str, Tensor]]:
    return [(name, y) for name, y in vars(x).items() if isinstance(y, Tensor)]
