"""How a cartridge's tensors start: one strategy per file, chosen by its class name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.runs.steady_bar import SteadyBar

if TYPE_CHECKING:
    from lit_cartridges.conversations.renderer import ChatRenderer

T = TypeVar("T")


class InitialTensors(NamedTuple):
    """What a cartridge starts from.

    Attributes:
        keys, values: per layer [kv_heads, num_tokens, head_dim]; keys as the model caches them, rotated for the
            positions 0..num_tokens-1.
        biases: per layer [kv_heads, num_tokens], added to the attention scores of each position; None for none.
    """

    keys: list[Tensor]
    values: list[Tensor]
    biases: list[Tensor] | None = None

    @property
    def num_tokens(self) -> int:
        """Positions."""
        return self.keys[0].shape[1]

    def positions(self, start: int, stop: int) -> InitialTensors:
        """Those of the positions start..stop-1."""
        keys, values = ([x[:, start:stop] for x in side] for side in (self.keys, self.values))
        return InitialTensors(keys, values, self.biases and [x[:, start:stop] for x in self.biases])

    def followed_by(self, other: InitialTensors) -> InitialTensors:
        """``other`` behind these; where only one of them has biases, the other's are 0."""
        sides = [(self.keys, other.keys), (self.values, other.values)]
        if self.biases is not None or other.biases is not None:
            sides.append((self._biases_or_zeros(), other._biases_or_zeros()))
        joined = [
            [torch.cat([a, b.to(a)], dim=1) for a, b in zip(mine, theirs, strict=True)]
            for mine, theirs in sides
        ]
        return InitialTensors(*joined)

    def _biases_or_zeros(self) -> list[Tensor]:
        if self.biases is not None:
            return self.biases
        return [key.new_zeros(key.shape[:2], dtype=torch.float32) for key in self.keys]


@dataclass(frozen=True, kw_only=True)
class InitContext:
    """What a strategy may look at.

    Args:
        model: the frozen student, on its device.
        context_ids: the corpus as the model would read it, the chat template's opening in front.
        num_tokens: positions that the cartridge shall have.
        corpus_ids: the corpus alone, with which ``context_ids`` ends; by default all of them, with no opening.
        seed: decides every random choice.
        renderer: the chat template, and with it the tokenizer.
        self_study: gives that many self-study conversations about the corpus, made by the teacher, each as the token
            ids that a student reads after its cartridge (user message and answer); None where there is no teacher.
        progress: show a bar while something takes long.

    Raises:
        ValueError: more positions than the model has, with at least one left for the user, or none at all.
    """

    model: PreTrainedModel
    context_ids: Sequence[int]
    num_tokens: int
    corpus_ids: Sequence[int] = ()
    seed: int = 0
    renderer: ChatRenderer | None = None
    self_study: Callable[[int], Sequence[Sequence[int]]] | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if not len(self.corpus_ids):
            object.__setattr__(self, "corpus_ids", self.context_ids)
        limit = self.max_positions
        if self.num_tokens < 1 or (limit is not None and self.num_tokens >= limit):
            allowed = "be at least 1" if limit is None else f"lie in 1..{limit - 1}"
            raise ValueError(
                f"num_tokens={self.num_tokens} must {allowed}, which leaves a position for the user (the model's "
                f"max_position_embeddings={limit})"
            )

    @property
    def max_positions(self) -> int | None:
        """Positions of the model's context; None where its config sets no bound."""
        return max_positions(self.model.config)

    @property
    def opening_ids(self) -> Sequence[int]:
        """The chat template's opening, which holds the attention sink; may be empty."""
        return self.context_ids[: len(self.context_ids) - len(self.corpus_ids)]

    def renderer_for(self, strategy: InitStrategy) -> ChatRenderer:
        """The chat template and the tokenizer.

        Raises:
            ValueError: there are none, and ``strategy`` needs them.
        """
        if self.renderer is None:
            raise ValueError(
                f"init={strategy.describe()} needs the tokenizer: give InitContext a renderer, or choose FirstTokens"
            )
        return self.renderer

    def conversations(self, count: int, strategy: InitStrategy) -> Sequence[Sequence[int]]:
        """``count`` self-study conversations, see ``self_study``.

        Raises:
            ValueError: there is no teacher, and ``strategy`` needs one.
        """
        if self.self_study is None:
            raise ValueError(
                f"init={strategy.describe()} needs self-study conversations, and there is no teacher to make them; "
                "start the cartridge in a run with a SelfStudyDataModule, or choose FirstTokens"
            )
        return self.self_study(count)

    def bar(self, items: Iterable[T], description: str, *, total: int | None = None) -> Iterable[T]:
        """``items`` with a progress bar where one is wanted."""
        return SteadyBar(items, desc=description, total=total, disable=not self.progress, leave=False)


class InitStrategy(ABC):
    """Gives the first keys and values of a cartridge.

    Attributes:
        reads_corpus, reads_conversations: what it cannot do without.
    """

    reads_corpus: bool = True
    reads_conversations: bool = False

    @abstractmethod
    def tensors(self, context: InitContext) -> InitialTensors:
        """Keys, values and perhaps biases for exactly ``context.num_tokens`` positions.

        Raises:
            ValueError: the strategy cannot give ``num_tokens`` positions; the message says what would work.
        """

    def check_model(self, config: PretrainedConfig, num_tokens: int) -> None:  # noqa: B027 - most need nothing
        """Checks settings against the model's config, before the model is loaded.

        Raises:
            ValueError: the strategy cannot start a cartridge of ``num_tokens`` positions for it.
        """

    def describe(self) -> str:
        """The name under which the cartridge's provenance remembers it."""
        return type(self).__name__
