"""One optimizer step on the same conversations: ours, and PEFT's CARTRIDGE tuner as its self-study example drives it.

PEFT's example (examples/cartridge_self_study) pads conversations on the right to the longest, runs the causal LM on the
padded batch, takes the top-k cross-entropy on every token of a conversation, questions included, averages it per
conversation, then over conversations. Two differences, both in PEFT's favour: its example runs the teacher in the same
step, here both sides are handed the teacher's log-probabilities; and its example builds one batch per step by default,
here a second PEFT side also tries batches of one, accumulated, which need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks._models import random_prefix
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.data.batch import Example, pack, packed
from lit_cartridges.losses import LanguageHead
from lit_cartridges.module import LitCartridge

LEARNING_RATE = 1e-3


class OurSide:
    """Packed sequences, merged attention, chunked loss on the answers.

    In rows of at most ``tokens_per_row``, gradients accumulated; None packs all conversations of a step into one row.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        num_tokens: int,
        prefix: tuple[list[Tensor], list[Tensor]],
        tokens_per_row: int | None = None,
    ) -> None:
        self.lit = LitCartridge(model="random", num_tokens=num_tokens)
        self.lit.student = model
        self.lit.head = self.lit.teacher_head = LanguageHead(model)
        self.lit.cartridge = Cartridge(*prefix, num_frozen_tokens=1)
        self.optimizer = torch.optim.Adam(self.lit.cartridge.parameters(), lr=LEARNING_RATE)
        self.model = model
        self.tokens_per_row = tokens_per_row

    def answer_losses(self, examples: Sequence[Example]) -> Tensor:
        """Per answer token, detached."""
        with reads_prefixes(self.model):
            return self.lit.losses(pack(examples).to(self.model.device))[1].detach()

    def step(self, examples: Sequence[Example]) -> None:
        """One optimizer step."""
        whole = sum(len(example.token_ids) for example in examples)
        answers = sum(len(example.target_ids) for example in examples)
        with reads_prefixes(self.model):
            for row in packed(examples, self.tokens_per_row or whole):
                (self.lit.losses(row.to(self.model.device))[0] / answers).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class PeftSide:
    """Padded batches of ``rows_per_batch`` conversations, gradients accumulated where there are several."""

    def __init__(
        self,
        model: PreTrainedModel,
        num_tokens: int,
        prefix: tuple[list[Tensor], list[Tensor]],
        rows_per_batch: int,
    ) -> None:
        from peft import CartridgeConfig, get_peft_model

        config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=num_tokens, num_frozen_tokens=1)
        self.model: Any = get_peft_model(model, config)
        # [p, 2L, H_kv, d] flattened, in the order K0, V0, K1, V1, …
        flat = torch.stack([x for pair in zip(*prefix, strict=True) for x in pair]).permute(2, 0, 1, 3)
        encoder = self.model.prompt_encoder[self.model.active_adapter]
        encoder.load_prompt_embeddings(flat.reshape(num_tokens, -1))
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        self.rows_per_batch = rows_per_batch

    def answer_losses(self, examples: Sequence[Example]) -> Tensor:
        """Per answer token, detached, in the order of `OurSide`."""
        losses = []
        with torch.no_grad():
            for example in examples:
                logits = self._logits([example])[
                    0, torch.from_numpy(example.target_rows).to(self.model.device)
                ]
                losses.append(top_k_losses(logits.float(), *self._top(example, all_tokens=False)))
        return torch.cat(losses)

    def step(self, examples: Sequence[Example]) -> None:
        """One optimizer step."""
        for start in range(0, len(examples), self.rows_per_batch):
            rows = examples[start : start + self.rows_per_batch]
            logits = self._logits(rows)
            losses = []
            for row, example in enumerate(rows):
                top = self._top(example, all_tokens=True)
                losses.append(top_k_losses(logits[row, : len(example.token_ids)], *top).mean())
            (torch.stack(losses).sum() / len(examples)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _logits(self, rows: Sequence[Example]) -> Tensor:
        longest = max(len(example.token_ids) for example in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(rows):
            ids[row, : len(example.token_ids)] = torch.from_numpy(example.token_ids)
            mask[row, : len(example.token_ids)] = 1
        device = self.model.device
        return self.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits

    def _top(self, example: Example, *, all_tokens: bool) -> tuple[Tensor, Tensor]:
        ids, logprobs = torch.from_numpy(example.top_ids), torch.from_numpy(example.top_logprobs)
        if all_tokens:  # the question's tokens have targets too; which ones does not matter to the speed
            repeats = -(-len(example.token_ids) // len(ids))
            ids, logprobs = (x.repeat(repeats, 1)[-len(example.token_ids) :] for x in (ids, logprobs))
        return ids.to(self.model.device), logprobs.to(self.model.device)


def top_k_losses(logits: Tensor, top_ids: Tensor, top_logprobs: Tensor) -> Tensor:
    """Cross-entropy with the teacher's top-k per row."""
    return -(top_logprobs.exp() * logits.log_softmax(-1).gather(-1, top_ids)).sum(-1)


def make_side(name: str, model: PreTrainedModel, num_tokens: int, rows_per_batch: int) -> OurSide | PeftSide:
    """A side by its name: "ours", "peft" or "peft-1". All start from the same cartridge."""
    torch.manual_seed(1)
    prefix = random_prefix(model, num_tokens)
    if name == "ours":
        return OurSide(model, num_tokens, prefix)
    return PeftSide(model, num_tokens, prefix, 1 if name == "peft-1" else rows_per_batch)
