"""What the student and the teacher make of one packed batch: final hidden states at the places that predict answers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import Reading
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.data.batch import PackedBatch


def student_hidden(model: PreTrainedModel, cartridge: Cartridge, batch: PackedBatch) -> Tensor:
    """[answers, width], differentiable in the cartridge, which all packed conversations read in front of them."""
    keys, values = cartridge.tensors(dtype=model.dtype)
    positions = batch.position_ids + cartridge.num_tokens
    reading = Reading(
        keys=keys, values=values, biases=cartridge.biases(), position_ids=positions, lengths=batch.lengths
    )
    hidden = model.base_model(
        batch.input_ids, position_ids=positions, use_cache=False, reading=reading
    ).last_hidden_state
    # A model that a device map spreads ends on another device than it begins on.
    return hidden.to(batch.input_ids.device)[0, batch.target_rows]


@torch.no_grad()
def teacher_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """[answers, width] of the same places, each conversation behind its own chunk, packed as the batch is."""
    device = batch.input_ids.device
    pieces = batch.input_ids[0].split(batch.lengths)
    contexts = [torch.tensor(ids, dtype=torch.long, device=device) for ids in batch.contexts]
    sequences = [torch.cat(pair) for pair in zip(contexts, pieces, strict=True)]
    lengths = tuple(len(sequence) for sequence in sequences)
    # A target's place moves by all contexts up to and including its own sequence's.
    shift = torch.tensor([len(c) for c in contexts], device=device).cumsum(0)
    hidden = model.base_model(
        torch.cat(sequences)[None],
        position_ids=torch.cat([torch.arange(n, device=device) for n in lengths])[None],
        use_cache=False,
        reading=Reading(lengths=lengths),
    ).last_hidden_state
    return hidden.to(device)[0, batch.target_rows + shift[batch.label_rows]]
