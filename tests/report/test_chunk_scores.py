"""Scores of chunks: those of a plain forward pass behind the cartridge."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.report.chunk_scores import ChunkScore, read_scores, score_chunks, write_scores
from tests.tiny_models import tiny_model
from tests.tiny_run import conversation, tokenizer


def test_they_are_the_losses_of_the_answers_behind_the_cartridge(corpus):
    model, renderer = tiny_model("llama"), ChatRenderer(tokenizer())
    cartridge = Cartridge(*prefill(model, list(range(3, 12))))
    told = [conversation(index, corpus=corpus, answer_tokens=3 + index % 4) for index in range(20)]
    told.insert(3, conversation(50))  # which says no chunk
    scores = score_chunks(model, renderer, cartridge, told)
    placed = [one for one in told if "chunk_start_token" in one.metadata]
    assert len(scores) == len(placed) == 20
    for one, score in zip(placed, scores, strict=True):
        ids, (span,) = renderer.conversation_ids(one.messages)
        mask = torch.ones(1, cartridge.num_tokens + len(ids))
        with torch.no_grad():
            logits = model(
                torch.tensor(ids)[None], attention_mask=mask, past_key_values=cartridge.as_cache(model)
            ).logits[0]
        plain = torch.nn.functional.cross_entropy(
            logits[span.start - 1 : span.stop - 1].float(), torch.tensor(ids[span], dtype=torch.long)
        )
        assert score.loss == pytest.approx(plain.item(), rel=1e-4)
        assert (score.start_token, score.num_tokens) == (one.metadata["chunk_start_token"], 30)


def test_the_file_gives_back_what_was_written(tmp_path):
    scores = [ChunkScore(start_token=1, num_tokens=2, loss=0.5)]
    assert read_scores(tmp_path) == []
    write_scores(tmp_path, scores)
    assert read_scores(tmp_path) == scores
    for content in ("{}", "[1]", '[{"start_token": 1}]', "x"):
        (tmp_path / "chunk_scores.json").write_text(content)
        with pytest.raises(ValueError):
            read_scores(tmp_path)
