"""Whether a model behind a cartridge of 40 tokens does what the plain model does with these tokens in its context.

The reference is the unmodified model: one forward call, without a cache, over everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lit_cartridges import Cartridge
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.data.batch import Example, pack
from lit_cartridges.generation import generate, left_padded
from lit_cartridges.losses import LanguageHead
from lit_cartridges.module.packed_forward import student_hidden
from tests.sweep.tiny_configs import TEXT_IDS

PREFIX_TOKENS, NEW_TOKENS = 40, 4
# Two sequences after the prefix, of unequal length: packed into one row in training, left-padded in generation.
OWN_TOKENS = (20, 13)
TOLERANCE = 1e-3
_GREEDY = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
_GREEDY |= {"forced_eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What the plain model answers; ``logits`` [tokens, vocabulary] of each sequence after each of two prefixes.

    Args:
        replies: ids that it adds greedily to the first prefix and each sequence.
        reply_logits: [new tokens, vocabulary] of them.
        pads: whether its own left-padded rows equal the rows alone.
    """

    prefixes: tuple[Tensor, Tensor]
    sequences: tuple[Tensor, ...]
    logits: tuple[list[Tensor], list[Tensor]]
    replies: list[list[int]]
    reply_logits: list[Tensor]
    pads: bool


@torch.no_grad()
def plain_reader(model: PreTrainedModel) -> Plain:
    """Ask the plain model, which has to take text alone, to see all of it and to generate."""
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or TEXT_IDS
    generator = torch.Generator().manual_seed(2)
    ids = [
        torch.randint(10, min(TEXT_IDS, vocabulary - 1), (n,), generator=generator)
        for n in (PREFIX_TOKENS, PREFIX_TOKENS, *OWN_TOKENS)
    ]
    prefixes, sequences = (ids[0], ids[1]), tuple(ids[2:])
    logits = [
        [_whole(model, torch.cat([prefix, own]))[PREFIX_TOKENS:] for own in sequences] for prefix in prefixes
    ]
    if max((a - b).abs().max().item() for a, b in zip(*logits, strict=True)) < 0.05:
        raise RuntimeError("the plain model's logits hardly depend on the prefix, so nothing can be said")
    replies = [_greedy(model, torch.cat([prefixes[0], own])) for own in sequences]
    rows, mask = left_padded([torch.cat([prefixes[0], own]).tolist() for own in sequences], 0, "cpu")
    plain: Any = model
    out = plain.generate(rows, attention_mask=mask, **_GREEDY)
    padded = torch.stack(out.logits).transpose(0, 1).float()
    pads = all(not _compared("", row, logits) for row, (_, logits) in zip(padded, replies, strict=True))
    return Plain(
        prefixes=prefixes,
        sequences=sequences,
        logits=(logits[0], logits[1]),
        replies=[reply for reply, _ in replies],
        reply_logits=[reply_logits for _, reply_logits in replies],
        pads=pads,
    )


def faults_of(model: PreTrainedModel, plain: Plain) -> list[str]:
    """One line for each thing in which the model behind a cartridge differs from the plain one."""
    keys, values = prefill(model, plain.prefixes[0])
    cartridge = Cartridge(keys, values, num_frozen_tokens=1)
    other = Cartridge(*prefill(model, plain.prefixes[1]), num_frozen_tokens=1)
    hidden = _trained(model, cartridge, plain.sequences)
    faults = _compared("training", _head(model, hidden), torch.cat(plain.logits[0]))
    faults += _compared(
        "training, another cartridge",
        _head(model, _trained(model, other, plain.sequences)),
        torch.cat(plain.logits[1]),
    )
    faults += _unreached(cartridge, hidden)
    faults += _generated(model, cartridge, plain, range(1))
    if plain.pads:
        faults += _generated(model, cartridge, plain, range(len(plain.sequences)))
    if not faults:
        faults += _gradients(model, cartridge, plain.sequences, hidden)
    return faults


def _whole(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(input_ids=ids[None], use_cache=False).logits[0].float()


def _greedy(model: PreTrainedModel, ids: Tensor) -> tuple[list[int], Tensor]:
    new, logits = [], []
    for _ in range(NEW_TOKENS):
        logits.append(_whole(model, ids)[-1])
        new.append(int(logits[-1].argmax()))
        ids = torch.cat([ids, torch.tensor(new[-1:])])
    return new, torch.stack(logits)


def _trained(model: PreTrainedModel, cartridge: Cartridge, sequences: Sequence[Tensor]) -> Tensor:
    """Final hidden states [tokens, width] as the training step computes them, all sequences in one packed row."""
    batch = pack(
        [
            Example(
                token_ids=ids.numpy(),
                target_rows=np.arange(len(ids)),
                target_ids=ids.numpy(),
                top_ids=np.zeros((len(ids), 0), dtype=np.int64),
                top_logprobs=np.zeros((len(ids), 0), dtype=np.float32),
            )
            for ids in sequences
        ]
    )
    with reads_prefixes(model):
        return student_hidden(model, cartridge, batch)


def _head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return LanguageHead(model)(hidden.detach()).float()


def _compared(what: str, ours: Tensor, theirs: Tensor) -> list[str]:
    off = (ours - theirs).abs().max().item()
    return [] if off <= TOLERANCE else [f"{what}: logits off by {off:.3g}"]


def _unreached(cartridge: Cartridge, hidden: Tensor) -> list[str]:
    names, parameters = zip(*cartridge.named_parameters(), strict=True)
    if not hidden.requires_grad:
        return ["no gradient reaches the cartridge"]
    grads = torch.autograd.grad(hidden.square().sum(), parameters, allow_unused=True, retain_graph=True)
    dead = [name for name, grad in zip(names, grads, strict=True) if grad is None or not grad.abs().max() > 0]
    return [f"no gradient reaches {', '.join(dead)}"] if dead else []


def _generated(model: Any, cartridge: Cartridge, plain: Plain, rows: Sequence[int]) -> list[str]:
    """Greedy generation of some rows in one batch, padded on the left where they are of unequal length."""
    ids, mask = left_padded([plain.sequences[row].tolist() for row in rows], 0, "cpu")
    out = generate(model, cartridge, ids, mask if len(rows) > 1 else None, **_GREEDY)
    faults = []
    for place, row in enumerate(rows):
        got = torch.stack(out.logits)[:, place].float()
        what = f"generation, row {row} of {len(rows)}"
        if out.sequences[place, ids.shape[1] :].tolist() != plain.replies[row]:
            faults.append(
                f"{what}: other tokens, first logits off by {(got - plain.reply_logits[row])[0].abs().max():.3g}"
            )
        else:
            faults += _compared(what, got, plain.reply_logits[row])
    return faults


def _gradients(
    model: PreTrainedModel, cartridge: Cartridge, sequences: Sequence[Tensor], hidden: Tensor
) -> list[str]:
    """Gradients against those of the plain model that reads the cartridge as an ordinary cache, a sequence at a time."""
    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9))
    parameters = list(cartridge.parameters())
    ours = torch.autograd.grad((hidden * probe).sum(), parameters)
    total: Any = 0
    keys, values = cartridge.tensors(dtype=torch.float32)
    for own, part in zip(sequences, probe.split([len(ids) for ids in sequences]), strict=True):
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            cache.update(key[None], value[None], layer)
        positions = torch.arange(PREFIX_TOKENS, PREFIX_TOKENS + len(own))[None]
        plain = model.base_model(own[None], position_ids=positions, **cache_argument(cache), use_cache=True)
        total = total + (plain.last_hidden_state[0] * part).sum()
    theirs = torch.autograd.grad(total, parameters)
    scale = max(x.abs().max().item() for x in theirs)
    off = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) / scale
    return [] if off <= TOLERANCE else [f"gradients off by {off:.3g} of the largest"]
