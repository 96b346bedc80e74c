"""A system under test that has read its corpus: the prefix of keys and values in front of a question, or nothing at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.attention import Reading
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.generation import generate_from_prefix
from lit_cartridges.models.position_limit import max_positions

TokenIds = Sequence[int] | NDArray[Any]


class ContextTooLong(EvalError):
    """The corpus, a question and its answer do not fit the model's context together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A named prefix. A subclass that holds something else overrides the methods.

    Args:
        name: in tables and logs.
        keys, values: per layer [kv_heads, tokens, head_dim] in the model's dtype and on its device; None for nothing.
        biases: per layer [kv_heads, tokens] in fp32, of a cartridge that has them.
        uses_context_prompt: whether questions continue a chat whose system message the prefix stands for; if not, they
            open a chat of their own.
        prefill_s: seconds that reading the corpus took, once for all questions.
    """

    name: str
    keys: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    biases: Sequence[Tensor] | None = None
    uses_context_prompt: bool = True
    prefill_s: float = 0.0

    @property
    def num_kv_tokens(self) -> int:
        """Positions in front of the question."""
        return 0 if self.keys is None else self.keys[0].shape[-2]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the prefix's keys, values and biases in the dtype that the model reads."""
        held = (*(self.keys or ()), *(self.values or ()), *(self.biases or ()))
        return sum(x.numel() * x.element_size() for x in held)

    def require_room(self, config: PretrainedConfig, needed_tokens: int) -> None:
        """See the function of that name; ``needed_tokens`` are those of a question and its answer."""
        require_room(config, self.name, self.num_kv_tokens, needed_tokens)

    def generate(self, model: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """``model.generate`` of left-padded prompts [rows, tokens] behind what was read; prompts included."""
        return generate_from_prefix(
            model, self.keys, self.values, input_ids, attention_mask, biases=self.biases, **options
        )

    def hidden_states(self, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Last hidden states [tokens of all sequences, width], each sequence read behind what was read before.

        They are one row of packed sequences, without padding. ``model`` must be inside `reads_prefixes`.
        """
        lengths = tuple(len(sequence) for sequence in sequences)
        positions = torch.cat([torch.arange(n, device=model.device) for n in lengths])[None]
        positions = positions + self.num_kv_tokens
        ids = [token for sequence in sequences for token in sequence]
        base: Any = model.base_model
        return base(
            torch.tensor(ids, device=model.device)[None],
            position_ids=positions,
            use_cache=False,
            reading=Reading(
                keys=self.keys,
                values=self.values,
                biases=self.biases,
                position_ids=positions,
                lengths=lengths,
            ),
        ).last_hidden_state[0]


def context_limit(config: PretrainedConfig, max_context_tokens: int | None = None) -> int | None:
    """Positions that prefix, question and answer may take together; None when there is no bound."""
    limit = max_positions(config)
    bounds = [bound for bound in (limit, max_context_tokens) if bound is not None]
    return min(bounds, default=None)


def require_room(config: PretrainedConfig, name: str, prefix_tokens: int, needed_tokens: int) -> None:
    """Raise ContextTooLong when a prefix with a question and its answer behind it exceeds the model's positions."""
    limit = context_limit(config)
    if limit is not None and prefix_tokens + needed_tokens > limit:
        raise ContextTooLong(
            f"{name}: {prefix_tokens} positions in front and up to {needed_tokens} for a question and its answer do "
            f"not fit max_position_embeddings={limit}; lower max_new_tokens, or shorten what is in front"
        )


def prefilled(model: PreTrainedModel, ids: Sequence[int], name: str) -> System:
    """A system that has read these tokens from position 0, and how long that took."""
    start = time.perf_counter()
    keys, values = prefill(model, ids)
    return System(name=name, keys=keys, values=values, prefill_s=seconds_since(start, model))


def seconds_since(start: float, model: PreTrainedModel) -> float:
    """Since ``time.perf_counter`` gave ``start``, until the model's device has done all that it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def picked(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' log-probabilities; the last logits have no target at the end of a text."""
    known = logits[:, : targets.shape[1]].float().log_softmax(-1)
    return known.gather(2, targets[..., None]).squeeze(2)
