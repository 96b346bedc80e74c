"""What the student is trained to match: objectives over the answer tokens, computed in chunks and in fp32.

Data flow: the student's final hidden states of the answer tokens [answers, width] → `chunked_loss`, which runs the
frozen language head a chunk of tokens at a time, the objective a block of these, and keeps only the gradient of the hidden
states, never anything of size [tokens, vocabulary] → the sum over answer tokens, to be divided by their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from lit_cartridges.models.readable import UnreadableModelError, text_model

Head = Callable[[Tensor], Tensor]

# Log-probabilities in fp32 at a time: 32 MiB of them, enough to keep a GPU busy.
_FP32_LOGITS = 2**23


@dataclass(kw_only=True)
class Targets:
    """What is known of each answer token; the first axis of every tensor is [answers].

    Args:
        token_ids: the token that the teacher chose [answers].
        top_ids, top_logprobs: the teacher's top-k [answers, k]; unused places hold id 0 and -inf.
        teacher_hidden: the teacher's final hidden states [answers, width], for full-vocabulary distillation.
    """

    token_ids: Tensor
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None
    teacher_hidden: Tensor | None = None

    def __getitem__(self, rows: slice) -> Targets:
        return replace(self, **{name: x[rows] for name, x in vars(self).items() if x is not None})


class Objective(ABC):
    """A loss per answer token, from the student's log-probabilities."""

    needs_top_logprobs = False
    needs_teacher_hidden = False

    @abstractmethod
    def token_losses(self, log_probs: Tensor, targets: Targets, teacher_head: Head | None) -> Tensor:
        """Losses [answers] in nats, from the student's log-probabilities [answers, vocabulary] in fp32."""


class TopKDistillation(Objective):
    """Cross-entropy with the teacher's top-k probabilities, as recorded (arXiv 2506.06266, §3.2 and appendix).

    -Σ p_teacher · log p_student, summed over the recorded tokens, not renormalised.
    """

    needs_top_logprobs = True

    def token_losses(self, log_probs: Tensor, targets: Targets, teacher_head: Head | None) -> Tensor:
        assert targets.top_ids is not None and targets.top_logprobs is not None
        return -(targets.top_logprobs.exp() * log_probs.gather(1, targets.top_ids)).sum(1)


class FullDistillation(Objective):
    """Cross-entropy with the teacher's whole distribution, recomputed from its hidden states in each chunk.

    The teacher reads chunk and conversation again in the training step, which costs its forward pass and needs no
    recorded log-probabilities.
    """

    needs_teacher_hidden = True

    def token_losses(self, log_probs: Tensor, targets: Targets, teacher_head: Head | None) -> Tensor:
        assert targets.teacher_hidden is not None and teacher_head is not None
        with torch.no_grad():
            teacher = teacher_head(targets.teacher_hidden).float().softmax(-1)
        return -(teacher * log_probs).sum(1)


class NextToken(Objective):
    """Negative log-likelihood of the chosen tokens: of a conversation's answers, or of a raw corpus."""

    def token_losses(self, log_probs: Tensor, targets: Targets, teacher_head: Head | None) -> Tensor:
        return -log_probs.gather(1, targets.token_ids.unsqueeze(1)).squeeze(1)


def chunked_loss(
    hidden: Tensor,
    targets: Targets,
    objective: Objective,
    head: Head,
    *,
    teacher_head: Head | None = None,
    chunk_tokens: int = 1024,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the objective over all answer tokens, differentiable in ``hidden`` [answers, width].

    Returns:
        The sum; and per token, detached, [answers]: the objective, and the negative log-likelihood of the teacher's
        token, which is the perplexity's logarithm. All fp32, in nats.
    """
    return _ChunkedLoss.apply(hidden, targets, objective, head, teacher_head, chunk_tokens)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Targets,
        objective: Objective,
        head: Head,
        teacher_head: Head | None,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        losses, nlls, grads = [], [], []
        for start in range(0, len(hidden), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            loss, nll, grad = _of_chunk(
                *(hidden[rows], targets[rows], objective, head, teacher_head),
                differentiates=ctx.needs_input_grad[0],
            )
            losses.append(loss)
            nlls.append(nll)
            grads += [] if grad is None else [grad]
        ctx.grads = grads
        token_losses, token_nlls = torch.cat(losses), torch.cat(nlls)
        ctx.mark_non_differentiable(token_losses, token_nlls)
        return token_losses.sum(), token_losses, token_nlls

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return torch.cat(ctx.grads) * grads[0], None, None, None, None, None


def _of_chunk(
    hidden: Tensor,
    targets: Targets,
    objective: Objective,
    head: Head,
    teacher_head: Head | None,
    *,
    differentiates: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses, NLLs and the gradient of the hidden states. Its own function: what has a chunk's size dies before the next.

    Of a chunk there are the logits and their gradient, in the model's dtype; in fp32 there is a block of rows at a time.
    """
    chunk = hidden.detach().requires_grad_(differentiates)
    with torch.set_grad_enabled(differentiates):
        logits = head(chunk)
        rows = fp32_rows(logits.shape[1])
        if len(logits) <= rows:
            log_probs = logits.log_softmax(-1, dtype=torch.float32)
            del logits
            loss = objective.token_losses(log_probs, targets, teacher_head)
            grad = torch.autograd.grad(loss.sum(), chunk)[0] if differentiates else None
            return loss.detach(), _nll(log_probs, targets), grad
    d_logits = torch.empty_like(logits) if differentiates else None
    losses, nlls = [], []
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        into = None if d_logits is None else d_logits[block]
        loss, nll = _of_block(logits[block], targets[block], objective, teacher_head, into)
        losses.append(loss)
        nlls.append(nll)
    grad = None if d_logits is None else torch.autograd.grad(logits, chunk, d_logits)[0]
    return torch.cat(losses), torch.cat(nlls), grad


def _of_block(
    logits: Tensor,
    targets: Targets,
    objective: Objective,
    teacher_head: Head | None,
    d_logits: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same of a block, the gradient of whose logits goes into ``d_logits``."""
    differentiates = d_logits is not None
    logits = logits.detach().requires_grad_(differentiates)
    with torch.set_grad_enabled(differentiates):
        log_probs = logits.log_softmax(-1, dtype=torch.float32)
        loss = objective.token_losses(log_probs, targets, teacher_head)
        if d_logits is not None:
            d_logits.copy_(torch.autograd.grad(loss.sum(), logits)[0])
    return loss.detach(), _nll(log_probs, targets)


def _nll(log_probs: Tensor, targets: Targets) -> Tensor:
    return -log_probs.detach().gather(1, targets.token_ids.unsqueeze(1)).squeeze(1)


def fp32_rows(vocabulary: int) -> int:
    """Answer tokens whose log-probabilities exist in fp32 at a time."""
    return max(1, _FP32_LOGITS // vocabulary)


class LanguageHead(nn.Module):
    """From final hidden states [tokens, width] to logits [tokens, vocabulary], as the model's own ``forward`` makes them.

    transformers has no call for that: scalings, soft-caps and whole layers stand in ``forward`` of the causal LM. So it is
    that ``forward`` that runs, on a stand-in which shares the head and hands hidden states through where the body was.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        body = text_model(model)
        if body is model:
            raise UnreadableModelError(f"{type(model).__name__} has no language head; load it as a causal LM")
        stand_in = copy(model)
        stand_in._modules = {
            name: _HandsThrough(child, body) if _holds(child, body) else child
            for name, child in model._modules.items()
            if child is not None
        }
        # A list hides the shared weights from this module's parameters.
        self._model: list[Any] = [stand_in]

    def forward(self, hidden: Tensor) -> Tensor:
        model = self._model[0]
        logits: Tensor = (
            type(model).forward(model, inputs_embeds=hidden[None], use_cache=False).logits.squeeze(0)
        )
        return logits.to(hidden.device)  # a device map may put the projection elsewhere


class _Handed(BaseModelOutputWithPast):
    """Final hidden states; whatever else a head may look for is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _HandsThrough(nn.Module):
    """In the place of ``whole``, for the part of it that is the body; anything else of ``whole`` is its own."""

    def __init__(self, whole: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self._held = [whole, body]  # a list, as above

    def __getattr__(self, name: str) -> Any:
        if name == "_held":  # while a copy is made
            raise AttributeError(name)
        whole, body = self.__dict__["_held"]
        found = getattr(whole, name)
        return self if isinstance(found, nn.Module) and _holds(found, body) else found

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> _Handed:
        return _Handed(last_hidden_state=inputs_embeds)


def _holds(module: nn.Module, body: nn.Module) -> bool:
    return any(part is body for part in module.modules())
