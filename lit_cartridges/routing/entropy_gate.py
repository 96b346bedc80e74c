"""The baseline of the router (Self-Gating, 2605.28889): the cartridge is read where its first answer token is no riddle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.models.readable import unwrapped

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge

_BATCH_ROWS = 32


@torch.no_grad()
def first_token_entropies(
    model: Any, cartridge: Cartridge, renderer: ChatRenderer, questions: Sequence[str]
) -> Tensor:
    """fp32 [questions]: entropy in nats of the first answer token behind the cartridge. The gate reads the cartridge where it is
    below a threshold (the paper: 4.0; here that of the router's rule, so that both are held to the same alpha)."""
    model = unwrapped(model)
    keys, values = cartridge.tensors(dtype=model.dtype, device=model.device)
    biases = cartridge.biases(device=model.device)
    rows = [renderer.prompt_ids([user(text)]) for text in questions]
    found = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with reads_prefixes(model), torch.autocast(model.device.type, enabled=False):
        for _, group in groupby(order, key=lambda i: len(rows[i])):  # of one length, so without padding
            known = list(group)
            for start in range(0, len(known), _BATCH_ROWS):
                part = known[start : start + _BATCH_ROWS]
                ids = torch.tensor([rows[i] for i in part], device=model.device)
                positions = (cartridge.num_tokens + torch.arange(ids.shape[1], device=ids.device)).expand_as(
                    ids
                )
                reading = Reading(keys=keys, values=values, biases=biases, position_ids=positions)
                out = model(ids, position_ids=positions, use_cache=False, logits_to_keep=1, reading=reading)
                logprobs = out.logits[:, -1].float().log_softmax(dim=-1)
                found[part] = -(logprobs.exp() * logprobs).sum(dim=-1).cpu()
    return found
