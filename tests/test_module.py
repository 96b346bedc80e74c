"""LitCartridge trains a cartridge and nothing else, end to end on a tiny model (laws 2, 3, 6, 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_cartridges.attention import NAME
from lit_cartridges.data.example_source import ConversationExamples
from lit_cartridges.losses import FullDistillation, NextToken, TopKDistillation
from lit_cartridges.module import learning_rate_share
from lit_cartridges.teachers.conversation_file import write_conversations
from tests.tiny_run import (
    Curve,
    SaveAt,
    conversation,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_corpus,
    save_model,
    save_recording,
)

SEQUENCE_TOKENS = 10  # <user> w w w <assistant> and 6 answer tokens, of which the last is not read


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path):
    return save_corpus(tmp_path / "corpus.txt")


@pytest.fixture
def recorded(tmp_path, corpus):
    return save_recording(tmp_path / "recorded.parquet", corpus=corpus)


def fit(folder, module, data, *callbacks, ckpt_path=None, **options):
    curve = Curve()
    trainer = new_trainer(folder, curve, *callbacks, **({"max_steps": 4} | options))
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, curve


def one_batch(folder, module, data):
    """The module set up as in training, and the stream's first batch."""
    module.trainer = trainer = new_trainer(folder, max_steps=1, log_every_n_steps=100)
    data.trainer = trainer
    trainer.datamodule = data
    trainer.strategy.connect(module)
    module.setup("fit")
    data.setup("fit")
    module.configure_model()
    return next(iter(data.train_dataloader()))


def test_self_study_on_the_fly_trains_the_cartridge_alone(tmp_path, model, corpus):
    module, data = new_module(model), new_data(corpus)
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


def test_the_loss_falls_on_a_recording(tmp_path, model, corpus, recorded):
    _, curve = fit(
        tmp_path, new_module(model), new_data(corpus, recorded=recorded, tokens_per_batch=400), max_steps=25
    )
    first, last = sum(curve.losses[:5]) / 5, sum(curve.losses[-5:]) / 5
    assert last < first - 0.2


def test_1x8_2x4_and_8x1_give_one_curve(tmp_path, model, corpus, recorded):
    """A step sees the same eight conversations, in however many micro-batches they come."""
    curves = []
    for micro_batches in (1, 2, 8):
        data = new_data(corpus, recorded=recorded, tokens_per_batch=SEQUENCE_TOKENS * 8 // micro_batches)
        _, curve = fit(
            tmp_path,
            new_module(model, num_frozen_tokens=2),
            data,
            accumulate_grad_batches=micro_batches,
            max_steps=5,
        )
        assert {len(batch.lengths) for batch in curve.batches} == {8 // micro_batches}
        curves.append(torch.tensor(curve.losses))
    assert curves[0].std() > 0.01
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curves[2], curves[0], rtol=1e-4, atol=1e-4)


def test_a_step_averages_over_answer_tokens_not_over_micro_batches(tmp_path, model, corpus, recorded):
    """Micro-batches of unequal answers: their losses are weighted by their answer tokens."""
    module = new_module(model)
    data = new_data(corpus, recorded=recorded, tokens_per_batch=3 * SEQUENCE_TOKENS)
    whole = one_batch(tmp_path, module, data)
    source = ConversationExamples(data._source.source, data.renderer, top_k=4)
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


def naive_losses(module, data, batch, name):
    """Each sequence alone, on the plain model with a plain cache, whole log-probabilities at once."""
    cartridge, losses, start = module.cartridge, [], 0
    for row, length in enumerate(batch.lengths):
        own = batch.input_ids[0, start : start + length]
        here = batch.label_rows == row
        rows, ids = batch.target_rows[here] - start, batch.targets.token_ids[here]
        positions = torch.arange(length)[None] + cartridge.num_tokens
        logits = module.student(
            own[None], past_key_values=cartridge.as_cache(), position_ids=positions
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
    tmp_path, model, corpus, recorded, objective
):
    module = new_module(model, objective=objective, loss_chunk_tokens=5)
    data = new_data(corpus, recorded=recorded, tokens_per_batch=60)
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


def test_a_separate_teacher_writes_and_is_matched(tmp_path, model, corpus):
    other = save_model(tmp_path / "teacher", "qwen2")
    module = new_module(model, teacher_model=other, objective=FullDistillation())
    data = new_data(corpus)
    _, curve = fit(tmp_path, module, data, max_steps=2)
    assert type(module.frozen_teacher).__name__ == "Qwen2ForCausalLM"
    assert type(data.teacher._model).__name__ == "Qwen2ForCausalLM"
    batch = curve.batches[0]
    with_teacher = one_batch(tmp_path, module, data)
    assert with_teacher.contexts[0]
    hidden = module.teacher_hidden(with_teacher)
    assert hidden.shape == (len(batch.target_rows), 32) or hidden.shape[1] == 32
    assert not any(name.startswith("teacher") for name in module.state_dict())


def test_raw_corpus_windows_train_with_next_token(tmp_path, model, corpus):
    data = new_data(corpus, raw_corpus=True, window_tokens=16, tokens_per_batch=64)
    _, curve = fit(tmp_path, new_module(model, objective=NextToken()), data, max_steps=15)
    assert curve.losses[-1] < curve.losses[0]
    assert not (tmp_path / "recording").exists()


def test_a_bf16_model_trains_an_fp32_cartridge_with_fp32_moments(tmp_path, model, corpus, recorded):
    module = new_module(model, dtype="bfloat16")
    trainer, curve = fit(tmp_path, module, new_data(corpus, recorded=recorded), max_steps=3)
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
    tmp_path, model, corpus, recorded
):
    grads, calls = [], []
    for checkpointing in (False, True):
        module = new_module(model, gradient_checkpointing=checkpointing)
        batch = one_batch(tmp_path, module, new_data(corpus, recorded=recorded))
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


def test_gradient_checkpointing_goes_with_generating_on_the_fly(tmp_path, model, corpus):
    losses = [
        fit(tmp_path / str(on), new_module(model, gradient_checkpointing=on), new_data(corpus), max_steps=3)[
            1
        ].losses
        for on in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_checkpoint_holds_the_cartridge_the_optimizer_and_the_stream_alone(
    tmp_path, model, corpus, recorded
):
    module = new_module(model)
    fit(tmp_path, module, new_data(corpus, recorded=recorded), SaveAt(2, tmp_path / "at.ckpt"))
    checkpoint = torch.load(tmp_path / "at.ckpt", weights_only=True)
    kinds = ("frozen_keys", "frozen_values", "trainable_keys", "trainable_values")
    assert set(checkpoint["state_dict"]) == {
        f"cartridge.{kind}.{layer}" for kind in kinds for layer in (0, 1)
    }
    assert checkpoint["cartridge"] == {
        "base_model": model,
        "corpus_sha256": module.cartridge.provenance.corpus_sha256,
        "num_tokens": 8,
        "num_frozen_tokens": 1,
    }
    (optimizer,) = checkpoint["optimizer_states"]
    assert {len(optimizer["state"])} == {4}
    assert set(checkpoint["SelfStudyDataModule"]) >= {"places"}
    assert (tmp_path / "at.ckpt").stat().st_size < 64_000


@pytest.mark.parametrize("options", [{}, {"uses": 2, "num_shards": 2}], ids=["plain", "uses and shards"])
def test_a_resumed_run_ends_on_the_same_bits(tmp_path, model, corpus, options):
    """Six steps, and three with three more from a checkpoint, whose conversations are made anew."""
    whole = new_module(model)
    trainer, curve = fit(
        tmp_path / "whole",
        whole,
        new_data(corpus, **options),
        SaveAt(3, tmp_path / "at.ckpt"),
        max_steps=6,
        accumulate_grad_batches=1 if options else 2,
    )
    rest = new_module(model)
    again, rest_curve = fit(
        tmp_path / "rest",
        rest,
        new_data(corpus, **options),
        max_steps=6,
        ckpt_path=tmp_path / "at.ckpt",
        accumulate_grad_batches=1 if options else 2,
    )
    assert again.global_step == trainer.global_step == 6
    assert curve.losses[3:] == rest_curve.losses
    assert same_tensors(whole.state_dict(), rest.state_dict())
    for mine, theirs in zip(
        trainer.optimizers[0].state.values(), again.optimizers[0].state.values(), strict=True
    ):
        assert same_tensors(mine, theirs)
    assert trainer.datamodule.stream_state == again.datamodule.stream_state


def test_a_second_run_of_the_module_still_reads_the_cartridge(tmp_path, model, corpus, recorded):
    """`teardown` gives the model its own attention back; whatever runs next must take it again."""
    module, data = new_module(model), new_data(corpus, recorded=recorded)
    fit(tmp_path, module, data, max_steps=2)
    assert module.student.config._attn_implementation != NAME
    data = new_data(corpus, recorded=recorded)
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


def test_losses_are_logged_by_seed_prompt(tmp_path, model, corpus, recorded):
    trainer, _ = fit(
        tmp_path, new_module(model), new_data(corpus, recorded=recorded, tokens_per_batch=400), max_steps=1
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


def test_a_non_finite_loss_names_the_batch(tmp_path, model, corpus, recorded):
    class Poison(Curve):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                pl_module.cartridge.trainable_values[0].data.fill_(float("nan"))

    message = r"loss is nan in batch 2 \(optimizer step 2; 4 conversations: question, summarization\).*learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(tmp_path, new_module(model), new_data(corpus, recorded=recorded), Poison())


@pytest.mark.parametrize("change", ["model", "corpus", "num_tokens", "num_frozen_tokens"])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, model, corpus, recorded, change):
    fit(
        tmp_path,
        new_module(model),
        new_data(corpus, recorded=recorded),
        SaveAt(1, tmp_path / "at.ckpt"),
        max_steps=1,
    )
    module = {"model": model, "num_tokens": 8, "num_frozen_tokens": 1}
    if change == "model":
        module["model"] = save_model(tmp_path / "other")
    elif change == "corpus":
        corpus = save_corpus(tmp_path / "other.txt", seed=5)
    else:
        module[change] += 1
    name = {"model": "base_model", "corpus": "corpus_sha256"}.get(change, change)
    with pytest.raises(ValueError, match=f"the checkpoint was made with {name}=.* and this run has"):
        fit(
            tmp_path,
            new_module(**module),
            new_data(corpus, recorded=recorded),
            ckpt_path=tmp_path / "at.ckpt",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frozen_tokens": -1}, r"model.num_frozen_tokens=-1 must lie in 0..num_tokens-1 = 0..7"),
        ({"num_frozen_tokens": 8}, r"model.num_frozen_tokens=8 must lie in 0..num_tokens-1 = 0..7"),
        ({"num_tokens": 0}, r"model.num_"),
        ({"learning_rate": 0.0}, r"model.learning_rate=0.0 must be above 0"),
        ({"dtype": "int8"}, r"model.dtype='int8' must be auto, float32, bfloat16 or float16"),
    ],
)
def test_bad_settings_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        new_module("nowhere", **options)


def test_settings_that_only_the_config_can_judge_fail_before_the_model_loads(
    tmp_path, model, corpus, monkeypatch
):
    monkeypatch.setattr(
        "lit_cartridges.module.load_frozen_model", lambda *_, **__: pytest.fail("the model was loaded")
    )

    def refused(module, data, message, **options):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, module, data, **options)

    refused(
        new_module(model, num_tokens=512),
        new_data(corpus),
        r"model.num_tokens=512 .*max_position_embeddings=512",
    )
    other = save_model(tmp_path / "other")
    vocabulary = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(vocabulary.replace('"w1"', '"v1"'))
    refused(
        new_module(model, teacher_model=other),
        new_data(corpus),
        r"model.teacher_model=.* another tokenizer",
    )
    refused(new_module(model), new_data(corpus), r"trainer.max_steps", max_steps=-1)


def test_a_trainer_without_self_study_data_is_refused(tmp_path, model):
    module = new_module(model)
    module.trainer = new_trainer(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="give the trainer a SelfStudyDataModule"):
        module.configure_model()


def test_the_learning_rate_warms_up_and_falls_in_a_cosine():
    shares = [learning_rate_share(step, 100, 10, 0.1) for step in range(101)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.55)
    assert shares[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_the_warm_up_is_capped_at_a_tenth_of_the_steps(tmp_path, model, corpus, recorded):
    rates = []

    class Rates(Curve):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(
        tmp_path,
        new_module(model, warmup_steps=100),
        new_data(corpus, recorded=recorded),
        Rates(),
        max_steps=20,
    )
    assert rates[0] == pytest.approx(0.025)
    assert rates[1] == rates[2] == pytest.approx(0.05)
    assert rates[-1] < 0.01


def test_a_step_averages_over_all_its_answer_tokens_however_they_fall_into_micro_batches(
    tmp_path, model, corpus
):
    recorded = tmp_path / "uneven.parquet"
    write_conversations(
        recorded, [conversation(i, corpus=corpus, answer_tokens=3 + 6 * (i % 2)) for i in range(8)]
    )
    module, data = new_module(model), new_data(corpus, recorded=str(recorded), tokens_per_batch=20)
    trainer = new_trainer(tmp_path, max_steps=1, accumulate_grad_batches=2, log_every_n_steps=1000)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data
    trainer.strategy.connect(module)
    module.setup("fit")
    data.setup("fit")
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
