"""Chunked objectives equal the plain formulas, and their memory does not grow with the vocabulary."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_cartridges import losses
from lit_cartridges.losses import (
    FullDistillation,
    LanguageHead,
    NextToken,
    Targets,
    TopKDistillation,
    chunked_loss,
)
from tests.tiny_models import VOCAB

ANSWERS, WIDTH, K = 23, 32, 5


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ANSWERS, WIDTH, generator=generator)
    weight = torch.randn(VOCAB, WIDTH, generator=generator)
    teacher_hidden = torch.randn(ANSWERS, WIDTH, generator=generator)
    top = (teacher_hidden @ weight.T).log_softmax(-1).topk(K)
    logprobs = top.values.masked_fill(torch.arange(K) >= 3, -torch.inf)
    targets = Targets(
        token_ids=top.indices[:, 0],
        top_ids=top.indices,
        top_logprobs=logprobs,
        teacher_hidden=teacher_hidden,
    )
    return hidden, weight, targets


def plain(name, logits, targets, weight):
    logs = logits.log_softmax(-1)
    if name == "NextToken":
        return torch.nn.functional.cross_entropy(logits, targets.token_ids, reduction="none")
    if name == "FullDistillation":
        return -((targets.teacher_hidden @ weight.T).softmax(-1) * logs).sum(-1)
    loss = torch.zeros(ANSWERS)
    for row in range(ANSWERS):
        for token, logprob in zip(targets.top_ids[row], targets.top_logprobs[row], strict=True):
            loss[row] = loss[row] - logprob.exp() * logs[row, token]
    return loss


@pytest.mark.parametrize("objective", [TopKDistillation(), FullDistillation(), NextToken()])
@pytest.mark.parametrize("chunk_tokens", [4, 1000])
def test_chunked_equals_plain_with_gradients(case, objective, chunk_tokens):
    hidden, weight, targets = case
    ours = hidden.clone().requires_grad_()
    total, per_token, nll = chunked_loss(
        ours,
        targets,
        objective,
        lambda h: h @ weight.T,
        teacher_head=lambda h: h @ weight.T,
        chunk_tokens=chunk_tokens,
    )
    (total / 7).backward()
    theirs = hidden.clone().requires_grad_()
    reference = plain(type(objective).__name__, theirs @ weight.T, targets, weight)
    (reference.sum() / 7).backward()
    torch.testing.assert_close(per_token, reference.detach())
    torch.testing.assert_close(total.detach(), reference.sum().detach())
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(nll, plain("NextToken", hidden @ weight.T, targets, weight))


@pytest.mark.parametrize("objective", [TopKDistillation(), FullDistillation(), NextToken()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_in_fp32_change_nothing(case, monkeypatch, objective, dtype):
    hidden, weight, targets = case
    weight = weight.to(dtype)
    targets = replace(targets, teacher_hidden=targets.teacher_hidden.to(dtype))

    def results(rows):
        monkeypatch.setattr(losses, "_FP32_LOGITS", rows * VOCAB)
        ours = hidden.to(dtype).requires_grad_()
        found = chunked_loss(
            *(ours, targets, objective, lambda h: h @ weight.T),
            teacher_head=lambda h: (
                h.double() @ weight.T.double()
            ),  # rows of products do not depend on their number
            chunk_tokens=9,
        )
        found[0].backward()
        return *(x.detach() for x in found), ours.grad

    for rows in (1, 4):
        for mine, whole in zip(results(rows), results(1000), strict=True):
            assert torch.equal(mine, whole)


def test_what_is_not_trained_makes_no_gradients(case):
    hidden, weight, targets = case
    with torch.no_grad():
        total, per_token, _ = chunked_loss(hidden, targets, NextToken(), lambda h: h @ weight.T)
    assert total.grad_fn is None and torch.equal(per_token.sum(), total)


def test_nothing_of_vocabulary_size_is_kept_for_the_backward_pass(case):
    hidden, weight, targets = case
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        total, _, _ = chunked_loss(
            hidden.clone().requires_grad_(),
            targets,
            TopKDistillation(),
            lambda h: h @ weight.T,
            chunk_tokens=4,
        )
    chunks = [grad.shape for grad in total.grad_fn.grads]
    assert chunks == [torch.Size([4, WIDTH])] * 5 + [torch.Size([3, WIDTH])]
    assert not any(VOCAB in shape and ANSWERS in shape for shape in kept)


def test_the_language_head_gives_the_models_logits(model):
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state
        torch.testing.assert_close(LanguageHead(model)(hidden), model(ids).logits)
