"""LoRA trained on a recording: where the conversations stand, what moves, and that it learns."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.reproductions.lora import train_lora
from tests.tiny_models import tiny_model
from tests.tiny_run import save_recording, tokenizer


def answers_nll(model, renderer, conversations) -> float:
    """The naive way: each conversation alone, from the chat's start."""
    total = []
    for one in conversations:
        question, answer = one.messages
        prompt = renderer.bare_prompt_ids([question])
        ids = torch.tensor([[*prompt, *answer.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        rows = range(len(prompt) - 1, ids.shape[1] - 1)
        total += [-logprobs[row, ids[0, row + 1]].item() for row in rows]
    return float(np.mean(total))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_it_learns_the_answers_and_moves_nothing_else(tmp_path, architecture):
    model, renderer = deepcopy(tiny_model(architecture)), ChatRenderer(tokenizer())
    groups = RecordedConversations(save_recording(tmp_path / "made.parquet", 8), tokenizer=tokenizer()).groups
    conversations = [one for group in groups for one in group]
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    at_first = answers_nll(model, renderer, conversations)
    num_bytes = train_lora(
        model, renderer, conversations, rank=4, steps=40, learning_rate=0.02, tokens_per_batch=60
    )
    assert answers_nll(model, renderer, conversations) < at_first - 0.3
    now = dict(model.named_parameters())
    adapters = {name: x for name, x in now.items() if "lora_" in name}
    assert num_bytes == sum(x.numel() * x.element_size() for x in adapters.values()) > 0
    frozen = {name.replace(".base_layer", ""): x for name, x in now.items() if name not in adapters}
    assert frozen.keys() == before.keys() and not any("lm_head" in name for name in adapters)
    assert all(torch.equal(x, before[name]) for name, x in frozen.items())
