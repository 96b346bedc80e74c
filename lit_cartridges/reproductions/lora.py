"""LoRA in the place of a cartridge: the same conversations and the same loss, into weights instead of keys and values."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.data.batch import PackedBatch, packed
from lit_cartridges.data.sources.example import Example
from lit_cartridges.data.sources.example_source import ConversationExamples
from lit_cartridges.losses import LanguageHead, TopKDistillation, chunked_loss
from lit_cartridges.module.packed_forward import bare_hidden
from lit_cartridges.optional import require_modules
from lit_cartridges.runs.steady_bar import SteadyBar


def train_lora(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    conversations: Sequence[Conversation],
    *,
    rank: int,
    steps: int,
    learning_rate: float,
    tokens_per_batch: int,
    seed: int = 0,
) -> int:
    """Put LoRA of this rank into every linear layer but the head, and train it by top-k distillation.

    The conversations stand where the model reads them without a cartridge: behind the chat template's own opening.

    Args:
        model: gets the adapter, which stays in it.
        steps: of Adam, each on about ``tokens_per_batch`` tokens, without warm-up.

    Returns:
        The adapter's bytes in the model's dtype.
    """
    require_modules("peft")
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    inject_adapter_in_model(config, model)
    trained = [x for name, x in model.named_parameters() if x.requires_grad and "lora_" in name]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    head, batches = LanguageHead(model), _batches(renderer, conversations, tokens_per_batch, seed)
    with reads_prefixes(model), SteadyBar(total=steps, unit="step") as bar:
        for _ in range(steps):
            batch = next(batches).to(model.device)
            loss, *_ = chunked_loss(bare_hidden(model, batch), batch.targets, TopKDistillation(), head)
            (loss / len(batch.target_rows)).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.update()
    element = torch.empty((), dtype=model.dtype).element_size()
    return sum(x.numel() for x in trained) * element


def _batches(
    renderer: ChatRenderer, conversations: Sequence[Conversation], tokens_per_batch: int, seed: int
) -> Iterator[PackedBatch]:
    """Without end, in another order each round."""
    made: Any = ConversationExamples(None, renderer, needs_top_logprobs=True)  # type: ignore[arg-type]
    examples = [_bare(renderer, one, made.example(one)) for one in conversations]
    rng = random.Random(seed)
    while True:
        rng.shuffle(examples)
        yield from packed(examples, tokens_per_batch)


def _bare(renderer: ChatRenderer, conversation: Conversation, example: Example) -> Example:
    """The example behind the template's own opening instead of behind a context."""
    first = conversation.messages[:1]
    bare, behind = renderer.bare_prompt_ids(first), renderer.prompt_ids(first)
    ids = np.concatenate([np.asarray(bare, dtype=np.int64), example.token_ids[len(behind) :]])
    return replace(example, token_ids=ids, target_rows=example.target_rows + len(bare) - len(behind))
