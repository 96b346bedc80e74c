"""LitCartridge's objectives, each against its plain formula on a tiny model, keys and values alike."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention import NAME
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.data import RawCorpus
from lit_cartridges.losses import FullDistillation, NextToken, TopKDistillation
from lit_cartridges.module.packed_forward import teacher_hidden
from tests.tiny_run import (
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    one_batch,
    save_model,
)


def naive_losses(module, data, batch, name):
    """Each sequence alone, on the plain model with a plain cache, whole log-probabilities at once."""
    cartridge, losses, start = module.cartridge, [], 0
    for row, length in enumerate(batch.lengths):
        own = batch.input_ids[0, start : start + length]
        here = batch.label_rows == row
        rows, ids = batch.target_rows[here] - start, batch.targets.token_ids[here]
        positions = torch.arange(length)[None] + cartridge.num_tokens
        logits = module.student(
            own[None], **cache_argument(cartridge.as_cache()), position_ids=positions
        ).logits[0, rows]
        logs = logits.float().log_softmax(-1)
        if name == "NextToken":
            losses.append(-logs[torch.arange(len(ids)), ids])
        elif name == "TopKDistillation":
            chosen, weights = batch.targets.top_ids[here], batch.targets.top_logprobs[here].exp()
            losses.append(
                torch.stack(
                    [-(w * logs[i, c]).sum() for i, (c, w) in enumerate(zip(chosen, weights, strict=True))]
                )
            )
        else:
            context = torch.tensor(batch.contexts[row])
            with torch.no_grad():
                seen = module.frozen_teacher(torch.cat([context, own])[None], use_cache=False).logits[
                    0, len(context) :
                ]
            losses.append(-(seen[rows].float().softmax(-1) * logs).sum(-1))
        start += length
    return torch.cat(losses)


@pytest.mark.parametrize(
    "objective", [TopKDistillation(), FullDistillation(), NextToken()], ids=lambda o: type(o).__name__
)
def test_every_objective_equals_the_plain_formula_with_gradients(
    tmp_path, model_folder, corpus, recorded, objective
):
    module = new_module(model_folder, objective=objective, loss_chunk_tokens=5)
    data = from_recording(corpus, recorded, tokens_per_batch=60)
    batch = one_batch(tmp_path, module, data)
    total, token_losses, nll = module.losses(batch)
    total.backward()
    ours = [p.grad.clone() for p in module.cartridge.parameters()]
    module.cartridge.zero_grad()
    module.teardown("fit")  # the reference uses the model's own attention
    assert module.student.config._attn_implementation != NAME
    reference = naive_losses(module, data, batch, type(objective).__name__)
    reference.sum().backward()
    torch.testing.assert_close(token_losses, reference.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total.detach(), reference.sum().detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        nll, naive_losses(module, data, batch, "NextToken").detach(), rtol=1e-4, atol=1e-4
    )
    assert len(ours) == 4
    for mine, parameter in zip(ours, module.cartridge.parameters(), strict=True):
        assert mine.abs().max() > 1e-4
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-4)
    assert all(len(context) > 0 for context in batch.contexts) == objective.needs_teacher_hidden


def test_a_separate_teacher_writes_and_is_matched(tmp_path, model_folder, corpus):
    other = save_model(tmp_path / "teacher", "qwen2")
    module = new_module(model_folder, teacher_model=other, objective=FullDistillation())
    data = new_data(corpus)
    _, curve = fit(tmp_path, module, data, max_steps=2)
    assert type(module.frozen_teacher).__name__ == "Qwen2ForCausalLM"
    assert type(data.source.teacher._model).__name__ == "Qwen2ForCausalLM"
    batch = curve.batches[0]
    with_teacher = one_batch(tmp_path, module, data)
    assert with_teacher.contexts[0]
    hidden = teacher_hidden(module.frozen_teacher, with_teacher)
    assert hidden.shape == (len(batch.target_rows), 32) or hidden.shape[1] == 32
    assert not any(name.startswith("teacher") for name in module.state_dict())


def test_raw_corpus_windows_train_with_next_token(tmp_path, model_folder, corpus):
    data = new_data(corpus, source=RawCorpus(window_tokens=16), tokens_per_batch=64)
    _, curve = fit(tmp_path, new_module(model_folder, objective=NextToken()), data, max_steps=15)
    assert curve.losses[-1] < curve.losses[0]
    assert not (tmp_path / "recording").exists()


def test_a_second_run_of_the_module_still_reads_the_cartridge(tmp_path, model_folder, corpus, recorded):
    """`teardown` gives the model its own attention back; whatever runs next must take it again."""
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    fit(tmp_path, module, data, max_steps=2)
    assert module.student.config._attn_implementation != NAME
    data = from_recording(corpus, recorded, validation=recorded)
    predicted = new_trainer(tmp_path, limit_predict_batches=1).predict(module, data)
    batch = next(iter(data.predict_dataloader()))
    assert module.student.config._attn_implementation != NAME
    assert len(predicted[0]["token_losses"]) == len(predicted[0]["labels"]) == len(batch.target_rows)
    torch.testing.assert_close(
        predicted[0]["token_losses"],
        naive_losses(module, data, batch, "TopKDistillation").detach(),
        rtol=1e-4,
        atol=1e-4,
    )
