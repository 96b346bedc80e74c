"""Rows padded to a bucket's shape: few shapes, and the losses and gradients of the row without padding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.data.bucketed import Bucket
from lit_cartridges.losses import (
    FullDistillation,
    LanguageHead,
    NextToken,
    Targets,
    TopKDistillation,
    chunked_loss,
)
from lit_cartridges.module.packed_forward import student_hidden, teacher_hidden
from lit_cartridges.module.training_graphs import losses_and_gradients
from tests.tiny_models import VOCAB, tiny_model

PREFIX = 40  # more than the tiny models' windows
OBJECTIVES = [TopKDistillation(), NextToken(), FullDistillation()]


def drawn_batch(lengths, *, seed=0, top_k=3, dtype=torch.float32):
    """A row of random tokens, the last half of each sequence answers, with random log-probabilities."""
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape):
        return torch.randint(3, VOCAB, shape, generator=generator)

    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    rows = [torch.arange(s + n // 2, s + n) for s, n in zip(starts, lengths, strict=True)]
    answers = sum(map(len, rows))
    return PackedBatch(
        input_ids=ids(1, sum(lengths)),
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        lengths=tuple(lengths),
        target_rows=torch.cat(rows),
        targets=Targets(
            token_ids=ids(answers),
            top_ids=ids(answers, top_k) if top_k else None,
            top_logprobs=torch.randn(answers, top_k, generator=generator).log_softmax(1) if top_k else None,
        ),
        labels=("q",) * len(lengths),
        label_rows=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor([len(x) for x in rows])),
        contexts=tuple(tuple(range(3, 5 + i)) for i in range(len(lengths))),
        window_answers=answers,
    )


def drawn_module(model, objective=None, *, biases=False, prefix=PREFIX):
    """As much of a `LitCartridge` as a step reads."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    heads, layers = config.num_key_value_heads, config.num_hidden_layers
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys, values = (
        [torch.randn(heads, prefix, width, generator=generator) for _ in range(layers)] for _ in range(2)
    )
    some = [torch.randn(heads, prefix, generator=generator) for _ in range(layers)] if biases else None
    return SimpleNamespace(
        student=model,
        frozen_teacher=model,
        cartridge=Cartridge(keys, values, some, num_frozen_tokens=2),
        head=LanguageHead(model),
        teacher_head=LanguageHead(model),
        objective=objective or TopKDistillation(),
        loss_chunk_tokens=7,
        gradient_checkpointing=False,
    )


def plain_results(module, batch, weight):
    """Loss, objective and NLL per answer token, and gradients, without padding."""
    total, *rows = chunked_loss(
        *(
            student_hidden(module.student, module.cartridge, batch),
            batch.targets,
            module.objective,
            module.head,
        ),
        teacher_head=module.teacher_head,
        chunk_tokens=module.loss_chunk_tokens,
    )
    loss = total * weight
    return loss.detach(), *rows, *torch.autograd.grad(loss, list(module.cartridge.parameters()))


def padded_results(module, batch, weight):
    padded, answers = Bucket.of(batch).padded(batch), len(batch.target_rows)
    padding = torch.arange(len(padded.target_rows)) >= answers
    loss, *rows, gradients = losses_and_gradients(
        module, padded, padding=padding, weight=torch.tensor(weight), longest=None
    )
    assert all(not x[answers:].any() for x in rows)
    return loss, *(x[:answers] for x in rows), *gradients


@pytest.mark.parametrize("biases", [False, True], ids=["", "biased"])
def test_losses_and_gradients_are_those_of_the_row_without_padding(model, biases):
    """Of every architecture: windows that hide some of the prefix, soft-caps, sinks, experts."""
    module = drawn_module(model, biases=biases)
    with reads_prefixes(model):
        for lengths in ((7, 1, 12), (30,), (9,) * 9):
            batch = drawn_batch(lengths)
            for mine, plain in zip(
                padded_results(module, batch, 0.25), plain_results(module, batch, 0.25), strict=True
            ):
                torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda x: type(x).__name__)
def test_of_every_objective(objective):
    """Padded answers would count for something in two of them, if nobody left them out."""
    module = drawn_module(tiny_model("llama"), objective)
    batch = drawn_batch((7, 1, 12))
    with reads_prefixes(module.student):
        if objective.needs_teacher_hidden:
            known = teacher_hidden(module.student, batch)
            batch = replace(batch, targets=replace(batch.targets, teacher_hidden=known))
        for mine, plain in zip(
            padded_results(module, batch, 0.25), plain_results(module, batch, 0.25), strict=True
        ):
            torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [0, 1, 5, 20])
@pytest.mark.parametrize("lengths", [(1,), (7, 0, 12), (64,), (300, 200, 12), (9,) * 40], ids=str)
def test_a_padded_row_has_its_buckets_shape(lengths, top_k):
    batch = drawn_batch(lengths, top_k=top_k)
    bucket = Bucket.of(batch)
    padded = bucket.padded(batch)
    assert padded.input_ids.shape == padded.position_ids.shape == (1, bucket.tokens)
    assert len(padded.cum_seq) == bucket.sequences + 1 and padded.cum_seq[-1] == bucket.tokens
    assert 0 < min(padded.lengths) and max(padded.lengths) <= bucket.longest
    assert padded.lengths[: len(lengths) - lengths.count(0)] == tuple(n for n in lengths if n)
    assert len(padded.target_rows) == len(padded.targets.token_ids) == bucket.answers
    real = len(batch.target_rows)
    assert torch.equal(padded.target_rows[:real], batch.target_rows)
    assert (padded.target_rows[real:] >= sum(lengths)).all(), "padding answers padding"
    if top_k:
        assert padded.targets.top_ids.shape == (bucket.answers, bucket.top_k)
        assert padded.targets.top_logprobs[:, top_k:].exp().sum() == 0


def test_few_buckets_and_little_padding():
    """Rows of up to 2,048 tokens as a loader fills them."""
    generator, buckets = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        lengths, most = [], 2048
        while sum(lengths) < most:
            lengths.append(int(torch.randint(150, 500, (), generator=generator)))
        bucket = Bucket.of(drawn_batch(tuple(lengths[:-1]), top_k=0))
        assert bucket.tokens <= 1.13 * sum(lengths[:-1])
        buckets.add(bucket)
    assert len(buckets) <= 32
