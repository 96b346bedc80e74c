"""The frozen model itself as the teacher, in the training process.

One prefill of the chunk is shared by all conversations about it, questions and answers alike (`reading_prefix`), and
the top-k log-probabilities are taken from the logits while the answer is decoded, so that no second pass is needed.

With a cascade, what is in front of a prompt may be longer than the model's context: it is streamed through a cache of fixed
size, and what that holds at the end is read as any prefill is. So are chunks that are too long, and so is the whole corpus
where it stands in front of every chunk (`data.source.corpus_before_chunk`): then the positions are

    opening and corpus, as the cascade keeps them | the chunk, in full | a prompt and its reply
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
)

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.generation import generate_from_prefix, greedy, left_padded, pad_token_id
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.settings import Count, checked
from lit_cartridges.teachers.teacher import Completion, Sampling, Teacher, TeacherError

_Read = tuple[tuple[tuple[int, ...], int], list[Tensor], list[Tensor]]
"""Token ids and how many of them were streamed; the keys and the values of that."""


class LocalTeacher(Teacher):
    """Completes prompts with the model that `bind` hands over.

    Args:
        max_rows: prompts decoded at once; more are done in turns.
        cascade: the cache through which the corpus is read in front of every chunk (`corpus_before_chunk`), once for all
            chunks; otherwise a chunk that exceeds the model's context together with the longest prompt and reply. None reads
            everything in full, and refuses what does not fit. A deviation from arXiv 2406.17808: what is read behind what was
            kept displaces none of it.
    """

    runs_model = True

    @checked
    def __init__(self, *, max_rows: Count = 64, cascade: CascadeOptions | None = None) -> None:
        self.max_rows, self.cascade = max_rows, cascade
        self.reads_any_length = cascade is not None
        self._model: PreTrainedModel | None = None
        self._expected: tuple[int, ...] = ()
        self._expected_options = cascade
        self._forget()

    def expect_prefix(self, ids: Sequence[int], *, opening_tokens: int) -> None:
        """Stream these through the cascade, where there is one, with the opening among its sinks."""
        self._expected = tuple(int(i) for i in ids)
        if self.cascade is not None:
            self._expected_options = self.cascade.keeping(opening_tokens)

    def prefix_positions(self, num_tokens: int) -> int:
        """See `Teacher.prefix_positions`."""
        return num_tokens if self.cascade is None else min(num_tokens, self.cascade.total_tokens)

    def check_model(self, config: PretrainedConfig) -> None:
        """See `Teacher.check_model`."""
        if self._expected_options is not None:
            self._expected_options.new_cache(config)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Teacher.settings`."""
        return {} if self.cascade is None else {"cascade": asdict(self.cascade)}

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Take the frozen model. Prompts come as token ids, so no tokenizer is needed here."""
        self._model = model
        self._forget()

    def close(self) -> None:
        """Forget all keys and values."""
        self._forget()

    def _forget(self) -> None:
        # The context of the last call: the answers are about the same chunk as the questions before them.
        self._context: _Read | None = None
        # What the cascade kept: of the corpus, and so of use for all chunks; or of the last chunk that was too long.
        self._kept: _Read | None = None

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
        context = tuple(int(i) for i in context_ids)
        streamed = self._streamed_tokens(context, longest + sampling.max_new_tokens)
        read_tokens = len(context) - streamed + self.prefix_positions(streamed)
        max_new_tokens = self._fitting_length(model, read_tokens + longest, sampling.max_new_tokens)
        ids, mask = left_padded(prompts, pad_token_id(self.stop_token_ids), model.device)
        recorder, processors = _TopRecorder(top_k), LogitsProcessorList()
        if top_k:
            processors.append(recorder)
        if sampling.temperature > 0:
            processors.append(_SeededSampler(sampling.temperature, seeds, max_new_tokens, model.device))
        options: dict[str, Any] = {
            "generation_config": greedy(self.stop_token_ids, max_new_tokens),
            "logits_processor": processors,
        }
        keys, values = self._read(context, streamed) if context else (None, None)
        sequences = generate_from_prefix(model, keys, values, ids, mask, **options)
        return _completions(sequences[:, longest:].cpu().numpy(), self.stop_token_ids, recorder, min_mass)

    def _bound(self) -> PreTrainedModel:
        if self._model is None:
            raise TeacherError("teacher=LocalTeacher has no model yet; call bind(model, tokenizer) first")
        return self._model

    def _streamed_tokens(self, context: tuple[int, ...], needed_tokens: int) -> int:
        """How many tokens, from the context's first on, are read through the cascade."""
        limit = max_positions(self._bound().config)
        if self.cascade is None:
            return 0
        if self._expected and context[: len(self._expected)] == self._expected:
            return len(self._expected)
        return 0 if limit is None or len(context) + needed_tokens <= limit else len(context)

    def _read(self, context: tuple[int, ...], streamed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the context, its first ``streamed`` tokens as the cascade keeps them."""
        key = (context, streamed)
        if self._context is None or self._context[0] != key:
            kept, whole = self._streamed(context[:streamed]) if streamed else None, context[streamed:]
            keys, values = prefill(self._bound(), whole, behind=kept) if whole or kept is None else kept
            self._context = (key, keys, values)
        return self._context[1:]

    def _streamed(self, ids: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        key = (ids, len(ids))
        if self._kept is None or self._kept[0] != key:
            model, options = self._bound(), self._expected_options if ids == self._expected else self.cascade
            assert options is not None
            cache = options.new_cache(model.config)
            cascade_prefill(model, cache, torch.tensor([ids], device=model.device))
            kept = cache.to_cartridge(model)
            self._kept = (key, *kept.tensors(dtype=model.dtype, device=model.device))
        return self._kept[1:]

    @staticmethod
    def _fitting_length(model: PreTrainedModel, used: int, wanted: int) -> int:
        limit = max_positions(model.config) or used + wanted
        if used >= limit:
            raise TeacherError(
                f"chunk and prompt take {used} tokens, and the model has max_position_embeddings={limit}; "
                "lower the chunker's max_tokens, or give the teacher a cascade that leaves room"
            )
        return min(wanted, limit - used)


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
