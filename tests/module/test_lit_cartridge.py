"""LitCartridge trains a cartridge and nothing else, end to end on a tiny model (laws 2, 3, 6, 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_cartridges.conversations.parquet import write_conversations
from lit_cartridges.data.sources.example_source import ConversationExamples
from lit_cartridges.runs.run_progress import learning_rate_share
from tests.tiny_run import (
    Curve,
    conversation,
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    one_batch,
)

SEQUENCE_TOKENS = 10  # <user> w w w <assistant> and 6 answer tokens, of which the last is not read


def test_self_study_on_the_fly_trains_the_cartridge_alone(tmp_path, model_folder, corpus):
    module, data = new_module(model_folder), new_data(corpus)
    before = {}

    class Remember(Curve):
        def on_train_start(self, trainer, pl_module):
            before.update({k: v.detach().clone() for k, v in pl_module.named_parameters()})
            before.update({k: v.clone() for k, v in pl_module.cartridge.named_buffers()})

    _, curve = fit(tmp_path, module, data, Remember())
    after = {**dict(module.named_parameters()), **dict(module.cartridge.named_buffers())}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"cartridge.trainable_{side}.{layer}" for side in ("keys", "values") for layer in (0, 1)}
    assert {name for name, p in module.named_parameters() if p.requires_grad} == moved
    assert len(list((tmp_path / "recording").glob("part-*.parquet"))) >= 2
    assert len(curve.losses) == 4
    assert all(sum(batch.lengths) <= 40 for batch in curve.batches)


def test_the_loss_falls_on_a_recording(tmp_path, model_folder, corpus, recorded):
    _, curve = fit(
        tmp_path,
        new_module(model_folder),
        from_recording(corpus, recorded, tokens_per_batch=400),
        max_steps=25,
    )
    first, last = sum(curve.losses[:5]) / 5, sum(curve.losses[-5:]) / 5
    assert last < first - 0.2


def test_1x8_2x4_and_8x1_give_one_curve(tmp_path, model_folder, corpus, recorded):
    """A step sees the same eight conversations, in however many micro-batches they come."""
    curves = []
    for micro_batches in (1, 2, 8):
        data = from_recording(corpus, recorded, tokens_per_batch=SEQUENCE_TOKENS * 8 // micro_batches)
        _, curve = fit(
            tmp_path,
            new_module(model_folder, num_frozen_tokens=2),
            data,
            accumulate_grad_batches=micro_batches,
            max_steps=5,
        )
        assert {len(batch.lengths) for batch in curve.batches} == {8 // micro_batches}
        curves.append(torch.tensor(curve.losses))
    assert curves[0].std() > 0.01
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curves[2], curves[0], rtol=1e-4, atol=1e-4)


def test_a_step_averages_over_answer_tokens_not_over_micro_batches(tmp_path, model_folder, corpus, recorded):
    """Micro-batches of unequal answers: their losses are weighted by their answer tokens."""
    module = new_module(model_folder)
    data = from_recording(corpus, recorded, tokens_per_batch=3 * SEQUENCE_TOKENS)
    whole = one_batch(tmp_path, module, data)
    source = ConversationExamples(data._examples.source, data.material.renderer, top_k=4)
    from lit_cartridges.data.batch import pack

    examples = [source.example(c) for c in source.conversations(0)[:3]]
    examples[2] = examples[2].cut(7)
    parts = [pack(examples[:2]), pack(examples[2:])]
    answers = sum(len(part.target_rows) for part in parts)
    assert len(parts[0].target_rows) != 2 * len(parts[1].target_rows)
    module.trainer.accumulate_grad_batches = 2
    steps = [
        float(module.training_step(replace(part, window_answers=answers, stream_state=whole.stream_state), 0))
        for part in parts
    ]
    _, token_losses, _ = module.losses(pack(examples))
    assert sum(steps) / 2 == pytest.approx(float(token_losses.mean()), rel=1e-5)


def test_a_bf16_model_trains_an_fp32_cartridge_with_fp32_moments(tmp_path, model_folder, corpus, recorded):
    module = new_module(model_folder, dtype="bfloat16")
    trainer, curve = fit(tmp_path, module, from_recording(corpus, recorded), max_steps=3)
    assert module.student.dtype == torch.bfloat16
    assert {p.dtype for p in module.cartridge.parameters()} == {torch.float32}
    moments = [
        x
        for state in trainer.optimizers[0].state.values()
        for n, x in state.items()
        if n.startswith("exp_avg")
    ]
    assert len(moments) == 8
    assert {x.dtype for x in moments} == {torch.float32}
    assert all(loss == loss for loss in curve.losses)


def test_gradient_checkpointing_recomputes_layers_and_gives_the_same_gradients(
    tmp_path, model_folder, corpus, recorded
):
    grads, calls = [], []
    for checkpointing in (False, True):
        module = new_module(model_folder, gradient_checkpointing=checkpointing)
        batch = one_batch(tmp_path, module, from_recording(corpus, recorded))
        count = []
        for layer in module.student.model.layers:
            layer.mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        module.losses(batch)[0].backward()
        grads.append([p.grad for p in module.cartridge.parameters()])
        calls.append(len(count))
        assert not any(part.training for part in module.student.modules())
    assert calls == [2, 4]
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_gradient_checkpointing_goes_with_generating_on_the_fly(tmp_path, model_folder, corpus):
    losses = [
        fit(
            tmp_path / str(on),
            new_module(model_folder, gradient_checkpointing=on),
            new_data(corpus),
            max_steps=3,
        )[1].losses
        for on in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_losses_are_logged_by_seed_prompt(tmp_path, model_folder, corpus, recorded):
    trainer, _ = fit(
        tmp_path,
        new_module(model_folder),
        from_recording(corpus, recorded, tokens_per_batch=400),
        max_steps=1,
    )
    names = {
        "train/loss",
        "train/perplexity",
        "train/loss/question",
        "train/loss/summarization",
        "train/grad_norm",
    }
    assert names <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train/perplexity"] > 1
    parts = [trainer.callback_metrics[f"train/loss/{name}"] for name in ("question", "summarization")]
    torch.testing.assert_close(
        sum(parts) / 2, trainer.callback_metrics["train/loss"]
    )  # equally many answer tokens


def test_a_non_finite_loss_names_the_batch(tmp_path, model_folder, corpus, recorded):
    class Poison(Curve):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                pl_module.cartridge.trainable_values[0].data.fill_(float("nan"))

    message = r"loss is nan in batch 2 \(optimizer step 2; 4 conversations: question, summarization\).*learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(tmp_path, new_module(model_folder), from_recording(corpus, recorded), Poison())


def test_the_learning_rate_warms_up_and_falls_in_a_cosine():
    shares = [learning_rate_share(step, 100, 10, 0.1) for step in range(101)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.55)
    assert shares[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_the_warm_up_is_capped_at_a_tenth_of_the_steps(tmp_path, model_folder, corpus, recorded):
    rates = []

    class Rates(Curve):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(
        tmp_path,
        new_module(model_folder, warmup_steps=100),
        from_recording(corpus, recorded),
        Rates(),
        max_steps=20,
    )
    assert rates[0] == pytest.approx(0.025)
    assert rates[1] == rates[2] == pytest.approx(0.05)
    assert rates[-1] < 0.01


def test_a_step_averages_over_all_its_answer_tokens_however_they_fall_into_micro_batches(
    tmp_path, model_folder, corpus
):
    recorded = tmp_path / "uneven.parquet"
    write_conversations(
        recorded, [conversation(i, corpus=corpus, answer_tokens=3 + 6 * (i % 2)) for i in range(8)]
    )
    module, data = new_module(model_folder), from_recording(corpus, str(recorded), tokens_per_batch=20)
    trainer = new_trainer(tmp_path, max_steps=1, accumulate_grad_batches=2, log_every_n_steps=1000)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data
    trainer.strategy.connect(module)
    data.setup("fit")
    module.setup("fit")
    module.configure_model()
    stream = iter(data.train_dataloader())
    windows = [(next(stream), next(stream)) for _ in range(3)]
    assert any(len(a.target_rows) != len(b.target_rows) for a, b in windows)
    for window in windows:
        step = (
            sum(module.training_step(batch, 0) for batch in window) / 2
        )  # Lightning divides by the micro-batches
        totals = [module.losses(batch)[1] for batch in window]
        torch.testing.assert_close(step.detach(), torch.cat(totals).mean())
