"""Tables of prompts that are as long as books: read through a cache of a share of their length, answered, and scored by text."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions, Cascades
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems import (
    CASCADE,
    DENSE,
    STREAMING_LLM,
    TRUNCATED,
    CascadeSystem,
    ContextTooLong,
    System,
)
from lit_cartridges.evals.systems.system import context_limit, prefilled
from lit_cartridges.generation import greedy
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.reproductions.kept import kept
from lit_cartridges.reproductions.reproduction import Reproduction
from lit_cartridges.settings import Count, DTypeName, NonNegativeInt, PositiveInt, checked

SYSTEMS = (CASCADE, STREAMING_LLM, TRUNCATED, DENSE)


@dataclass(frozen=True)
class Prompt:
    """The user's whole message, the references that its reply is scored by, and the length at which the reply is cut."""

    text: str
    answers: tuple[str, ...]
    max_new_tokens: int


class LongPrompts(Reproduction):
    """Prompts through a cache of the largest power of two below a share of their own length.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        cascades: sub-caches of "cascade".
        sink_tokens, stride_tokens: of all caches; sinks are counted beside the power of two.
        systems: rows, of "cascade", "streaming_llm", "truncated" (the prompt's first and last tokens, as many as the cache
            holds) and "dense" (as many as the model knows positions).
        max_context_tokens: positions that dense may use, if fewer than the model has.
        num_prompts: the first so many of each kind; all by default.
        dtype: of the model.
    """

    share: int
    system_template: str | None = None

    @checked
    def __init__(
        self,
        *,
        model: str = "meta-llama/Llama-3.1-8B-Instruct",
        cascades: Cascades = 4,
        sink_tokens: NonNegativeInt = 64,
        stride_tokens: PositiveInt = 512,
        systems: Sequence[str] = SYSTEMS,
        max_context_tokens: PositiveInt | None = None,
        num_prompts: Count | None = None,
        dtype: DTypeName = "auto",
    ) -> None:
        if not systems or any(name not in SYSTEMS for name in systems):
            raise SettingError(f"must name some of {', '.join(SYSTEMS)}", systems=list(systems))
        self.model_name, self.dtype, self.systems = model, dtype, list(systems)
        self.cascades, self.sink_tokens, self.stride_tokens = cascades, sink_tokens, stride_tokens
        self.max_context_tokens, self.num_prompts = max_context_tokens, num_prompts

    @abstractmethod
    def prompts(self, kind: str) -> Sequence[Prompt]:
        """All of one kind, in an order that never changes."""

    def replies(self, system: str, kind: str) -> list[tuple[Prompt, str, float]]:
        """Each prompt with its reply, and the seconds that this took."""
        found = []
        for number, prompt in enumerate(self.prompts(kind)[: self.num_prompts]):
            known = {"system": system, "kind": kind, "prompt": number}
            made = kept(self.folder, known, partial(self._reply, system, prompt))
            found.append((prompt, str(made["reply"]), float(made["seconds"])))
        return found

    def options(self, prompt_tokens: int) -> CascadeOptions:
        """The cache for a prompt of so many tokens."""
        positions = 1 << max(0, (max(1, prompt_tokens // self.share)).bit_length() - 1)
        return CascadeOptions(
            total_tokens=max(positions, self.cascades) + self.sink_tokens,
            cascades=self.cascades,
            sink_tokens=self.sink_tokens,
            stride_tokens=self.stride_tokens,
        ).keeping(self.sink_tokens)

    @torch.no_grad()
    def _reply(self, system: str, prompt: Prompt) -> dict[str, Any]:
        start = time.perf_counter()
        renderer, messages = self._renderer, [user(prompt.text)]
        if self.system_template is None:
            ids = renderer.bare_prompt_ids(messages)
        else:
            ids = renderer.context_ids([]) + renderer.prompt_ids(messages)
        read, last = self._read(system, ids, prompt.max_new_tokens)
        stops = renderer.stop_token_ids(self._model.generation_config)
        given = torch.tensor([[last]], device=self._model.device)
        with reads_prefixes(self._model):
            rows = read.generate(
                self._model,
                given,
                torch.ones_like(given),
                generation_config=greedy(stops, prompt.max_new_tokens),
            )
        reply = renderer.text(rows[0, 1:].cpu().numpy())
        return {"reply": reply, "seconds": time.perf_counter() - start, "tokens": len(ids)}

    def _read(self, system: str, ids: list[int], new_tokens: int) -> tuple[System, int]:
        """What has read all of the prompt but its last token, and that token."""
        options = self.options(len(ids))
        if system in (CASCADE, STREAMING_LLM):
            options = options if system == CASCADE else options.streaming_llm()
            cache = options.new_cache(self._model.config)
            cascade_prefill(self._model, cache, torch.tensor([ids[:-1]], device=self._model.device))
            return CascadeSystem(name=system, cache=cache), ids[-1]
        limit = context_limit(self._model.config, self.max_context_tokens)
        room = options.total_tokens if system == TRUNCATED else (limit or len(ids) + new_tokens) - new_tokens
        if room < 2:
            raise ContextTooLong(f"{system}: {room} positions are left for a prompt")
        cut = ids if len(ids) <= room else [*ids[: room // 2], *ids[len(ids) - (room - room // 2) :]]
        return prefilled(self._model, cut[:-1], system), cut[-1]

    @cached_property
    def _model(self) -> Any:
        return load_model(self.model_name, dtype=self.dtype, device=self.device)

    @cached_property
    def _renderer(self) -> ChatRenderer:
        return ChatRenderer(
            load_tokenizer(self.model_name), system_template=self.system_template or "{chunk}"
        )
