"""What the student and the teacher make of one packed batch: final hidden states at the places that predict answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import Reading
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.data.batch import PackedBatch


def student_hidden(model: PreTrainedModel, cartridge: Cartridge, batch: PackedBatch) -> Tensor:
    """[answers, width], differentiable in the cartridge, which all packed conversations read in front of them."""
    keys, values = cartridge.tensors(dtype=model.dtype)
    return hidden_behind(model, batch, keys=keys, values=values, biases=cartridge.biases())


def hidden_behind(model: PreTrainedModel, batch: PackedBatch, *, keys: list[Tensor], **prefix: Any) -> Tensor:
    """`student_hidden` of a cartridge's tensors.

    Args:
        prefix: ``values``, ``biases`` and ``longest`` of `Reading`.
    """
    reading = Reading(keys=keys, lengths=batch.lengths, cum_seq=batch.cum_seq, **prefix)
    hidden = _hidden(model, batch.input_ids, batch.position_ids + reading.num_tokens, reading)
    return hidden[batch.target_rows]


def bare_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """`student_hidden` without a cartridge, differentiable in what of the model is trained."""
    reading = Reading(lengths=batch.lengths, cum_seq=batch.cum_seq)
    return _hidden(model, batch.input_ids, batch.position_ids, reading)[batch.target_rows]


@torch.no_grad()
def teacher_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[answers, width] of the same places, each conversation behind its own chunk, packed as the batch is."""
    device = batch.input_ids.device
    in_front = [len(ids) for ids in batch.contexts]
    lengths = tuple(sum(pair) for pair in zip(in_front, batch.lengths, strict=True))
    # Made on the CPU and moved without waiting for the device.
    contexts, positions, shift = (
        x.to(device, non_blocking=True)
        for x in (
            torch.tensor([id_ for ids in batch.contexts for id_ in ids], dtype=torch.long),
            torch.cat([torch.arange(n) for n in lengths])[None],
            # A target's place moves by all contexts up to and including its own sequence's.
            torch.tensor(in_front).cumsum(0),
        )
    )
    pieces = zip(contexts.split(in_front), batch.input_ids[0].split(batch.lengths), strict=True)
    ids = torch.cat([piece for pair in pieces for piece in pair])[None]
    hidden = _hidden(model, ids, positions, Reading(lengths=lengths))
    return hidden[batch.target_rows + shift[batch.label_rows]]


def _hidden(model: PreTrainedModel, ids: Tensor, positions: Tensor, reading: Reading) -> Tensor:
    """Final hidden states [tokens, width] of one packed row, on the device of its ids."""
    hidden = model.base_model(
        ids,
        # Without one, transformers would look for sequences in the positions, and wait for the device to find them.
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        position_ids=positions,
        use_cache=False,
        reading=reading,
    ).last_hidden_state
    # A model that a device map spreads ends on another device than it begins on.
    return hidden.to(ids.device)[0]
