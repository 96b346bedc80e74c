"""A training step whose packed rows read the cartridge by FlexAttention, as the reference code of the paper packs them.

One block mask lets every token see the cartridge and what stands before it in its own conversation; cartridge and row are
joined in every layer. In the peer's favour: logits of the answer tokens alone, where the reference code takes all tokens', and
a block mask that is made once for the same lengths.
FlexAttention has no backward pass on a CPU; there `answer_losses` runs and `step` does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, PreTrainedModel

from benchmarks._training_sides import LEARNING_RATE, top_k_losses
from lit_cartridges.data.batch import Example, PackedBatch, pack

_NAME = "flex_packing"


class FlexSide:
    """All conversations of a step in one row; `_training_sides.OurSide` has the same methods."""

    def __init__(self, model: PreTrainedModel, prefix: tuple[list[Tensor], list[Tensor]]) -> None:
        self.model: Any = model
        # [layers, kv_heads, tokens, head_dim]; the first token is frozen, as on the other sides.
        self.frozen = [torch.stack(side)[:, :, :1] for side in prefix]
        self.trained = [nn.Parameter(torch.stack(side)[:, :, 1:].clone()) for side in prefix]
        self.optimizer = torch.optim.Adam(self.trained, lr=LEARNING_RATE)
        self.on_cuda = model.device.type == "cuda"
        self.attention = torch.compile(flex_attention, dynamic=False) if self.on_cuda else flex_attention
        self._masks: dict[tuple[int, ...], Any] = {}

    def answer_losses(self, examples: Sequence[Example]) -> Tensor:
        """Per answer token, detached, in the order of `OurSide`."""
        with torch.set_grad_enabled(self.on_cuda):  # so that a card compiles once for this and for `step`
            return self._losses(examples).detach()

    def step(self, examples: Sequence[Example]) -> None:
        """One optimizer step."""
        self._losses(examples).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _losses(self, examples: Sequence[Example]) -> Tensor:
        batch = pack(examples).to(self.model.device)
        pairs = zip(self.frozen, self.trained, strict=True)
        keys, values = (torch.cat(pair, dim=2).to(self.model.dtype) for pair in pairs)
        num_tokens = keys.shape[2]
        if batch.lengths not in self._masks:
            self._masks[batch.lengths] = _block_mask(batch, num_tokens)
        packing = (self.attention, keys, values, self._masks[batch.lengths])
        with _attending(self.model):
            hidden = self.model.base_model(
                batch.input_ids,
                position_ids=batch.position_ids + num_tokens,
                use_cache=False,
                packing=packing,
            ).last_hidden_state[0, batch.target_rows]
        assert batch.targets.top_ids is not None and batch.targets.top_logprobs is not None
        logits = self.model.get_output_embeddings()(hidden).float()
        return top_k_losses(logits, batch.targets.top_ids, batch.targets.top_logprobs)


def _block_mask(batch: PackedBatch, num_tokens: int) -> Any:
    tokens, device = batch.input_ids.shape[1], batch.input_ids.device
    lengths = torch.tensor(batch.lengths, device=device)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)

    def seen(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key - num_tokens).clamp(min=0)
        return (key < num_tokens) | ((sequence[query] == sequence[own]) & (own <= query))

    return create_block_mask(seen, None, None, tokens, num_tokens + tokens, device=str(device))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    attention, keys, values, seen = options["packing"]
    layer: Any = module.layer_idx
    key, value = (torch.cat([side[layer][None], own], dim=2) for side, own in ((keys, key), (values, value)))
    out = attention(query, key, value, block_mask=seen, scale=options["scaling"], enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    AttentionInterface.register(_NAME, _attend)
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
