"""The frozen model itself as the teacher, in the training process.

One prefill of the chunk is shared by all conversations about it, questions and answers alike (`reading_prefix`), and
the top-k log-probabilities are taken from the logits while the answer is decoded, so that no second pass is needed.

With a cascade, the chunk may be longer than the context, the whole corpus even: it is streamed through a cache of fixed
size, and what that holds at the end is read as any prefill is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.generation import generate_from_prefix, left_padded
from lit_cartridges.prefill import prefill
from lit_cartridges.teachers.teacher import Completion, Sampling, Teacher, TeacherError
from lit_cartridges.teachers.top_logprobs import TopLogprobs


class LocalTeacher(Teacher):
    """Completes prompts with the model that `bind` hands over.

    Args:
        max_rows: prompts decoded at once; more are done in turns.
        cascade: the cache through which a chunk is read that exceeds the model's context together with the longest prompt
            and reply; None refuses such a chunk. A deviation from arXiv 2406.17808: prompts and replies are read behind
            what was kept, and displace none of it.
    """

    def __init__(self, *, max_rows: int = 64, cascade: CascadeOptions | None = None) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows} must be at least 1")
        self.max_rows, self.cascade = max_rows, cascade
        self.reads_any_length = cascade is not None
        self._model: PreTrainedModel | None = None
        # The context of the last call: the answers are about the same chunk as the questions before them.
        self._context: tuple[tuple[tuple[int, ...], bool], list[Tensor], list[Tensor]] | None = None

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Take the frozen model; the tokenizer is the caller's affair."""
        self._model, self._context = model, None

    def close(self) -> None:
        """Forget the last context's keys and values."""
        self._context = None

    @torch.no_grad()
    def complete(
        self,
        *,
        context_ids: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        top_k: int = 0,
        min_mass: float = 0.99,
    ) -> list[Completion]:
        """See `Teacher.complete`."""
        completions: list[Completion] = []
        for start in range(0, len(prompts), self.max_rows):
            rows = slice(start, start + self.max_rows)
            completions += self._complete_rows(
                context_ids, prompts[rows], sampling, seeds[rows], top_k, min_mass
            )
        return completions

    def _complete_rows(
        self,
        context_ids: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        top_k: int,
        min_mass: float,
    ) -> list[Completion]:
        model: Any = self._bound()
        longest = max(len(prompt) for prompt in prompts)
        read_tokens = self._read_tokens(context_ids, longest + sampling.max_new_tokens)
        max_new_tokens = self._fitting_length(model, read_tokens + longest, sampling.max_new_tokens)
        pad = self.stop_token_ids[0] if self.stop_token_ids else 0
        ids, mask = left_padded(prompts, pad, model.device)
        recorder, processors = _TopRecorder(top_k), LogitsProcessorList()
        if top_k:
            processors.append(recorder)
        if sampling.temperature > 0:
            processors.append(_SeededSampler(sampling.temperature, seeds, max_new_tokens, model.device))
        options: dict[str, Any] = {
            "generation_config": GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                eos_token_id=list(self.stop_token_ids) or None,
                pad_token_id=pad,
            ),
            "logits_processor": processors,
        }
        if len(context_ids):
            keys, values = self._prefill(context_ids, streams=read_tokens < len(context_ids))
            sequences = generate_from_prefix(model, keys, values, ids, mask, **options)
        else:
            sequences = model.generate(ids, attention_mask=mask, **options)
        return _completions(sequences[:, longest:].cpu().numpy(), self.stop_token_ids, recorder, min_mass)

    def _bound(self) -> PreTrainedModel:
        if self._model is None:
            raise TeacherError("teacher=LocalTeacher has no model yet; call bind(model, tokenizer) first")
        return self._model

    def _read_tokens(self, context_ids: Sequence[int], needed_tokens: int) -> int:
        """Positions that the context takes: fewer than it has tokens where it is streamed to leave those needed."""
        limit = _positions(self._bound())
        if self.cascade is None or limit is None or len(context_ids) + needed_tokens <= limit:
            return len(context_ids)
        return min(len(context_ids), self.cascade.total_tokens)

    def _prefill(self, context_ids: Sequence[int], *, streams: bool) -> tuple[list[Tensor], list[Tensor]]:
        key = (tuple(int(i) for i in context_ids), streams)
        if self._context is None or self._context[0] != key:
            self._context = (key, *(self._streamed(key[0]) if streams else prefill(self._bound(), key[0])))
        return self._context[1:]

    def _streamed(self, context_ids: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        model = self._bound()
        assert self.cascade is not None
        cache = self.cascade.new_cache(model.config)
        cascade_prefill(model, cache, torch.tensor([context_ids], device=model.device))
        return cache.to_cartridge(model).tensors(dtype=model.dtype, device=model.device)

    @staticmethod
    def _fitting_length(model: PreTrainedModel, used: int, wanted: int) -> int:
        limit = _positions(model) or used + wanted
        if used >= limit:
            raise TeacherError(
                f"chunk and prompt take {used} tokens, and the model has max_position_embeddings={limit}; "
                "lower the chunker's max_tokens, or give the teacher a cascade that leaves room"
            )
        return min(wanted, limit - used)


def _positions(model: PreTrainedModel) -> int | None:
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


class _TopRecorder(LogitsProcessor):
    """Keeps the k most likely tokens of every step, at temperature 1, and changes nothing."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores32 = scores.float()
        top = scores32.topk(self.k, dim=-1)
        self.ids.append(top.indices)
        self.logprobs.append(top.values - scores32.logsumexp(-1, keepdim=True))
        return scores


class _SeededSampler(LogitsProcessor):
    """Draws each row's token from its own seed, so that a row's reply does not depend on the rest of the batch.

    The drawn token gets all the weight, and greedy decoding then takes it.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], steps: int, device: torch.device) -> None:
        self.temperature = temperature
        uniforms = np.stack([np.random.Generator(np.random.Philox(seed)).random(steps) for seed in seeds])
        self.uniforms = torch.from_numpy(uniforms).to(device)
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = (scores.float() / self.temperature).softmax(-1).double().cumsum(-1)
        drawn = self.uniforms[:, self.step, None] * cumulative[:, -1:]
        self.step += 1
        chosen = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _completions(
    sequences: np.ndarray[Any, Any], stops: Sequence[int], recorder: _TopRecorder, min_mass: float
) -> list[Completion]:
    """Cut every row [rows, steps] after its first stop token."""
    steps = sequences.shape[1]
    stopped = np.isin(sequences, list(stops))
    lengths = np.where(stopped.any(1), stopped.argmax(1) + 1, steps)
    ids = logprobs = None
    if recorder.ids:
        ids, logprobs = (torch.stack(x, dim=1).cpu().numpy() for x in (recorder.ids, recorder.logprobs))
    completions = []
    for row, length in enumerate(lengths):
        top = None
        if ids is not None and logprobs is not None:
            top = TopLogprobs.from_dense(ids[row, :length], logprobs[row, :length], min_mass=min_mass)
        completions.append(Completion(sequences[row, :length], top, bool(stopped[row].any())))
    return completions
