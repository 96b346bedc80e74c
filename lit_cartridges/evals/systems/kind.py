"""What every system under test has in common: its name, what it needs, and the two ways to measure one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.systems.system import System, TokenIds


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a system may take.

    Args:
        cascade: the cache of those that stream; of this size is also the window of "truncated".
        reserve_tokens: positions to be left for a question and its answer.
        max_context_tokens: positions that those which hold a text may use, if fewer than the model's
            ``max_position_embeddings``: those that it was trained on, say.
    """

    cascade: CascadeOptions = field(default_factory=CascadeOptions)
    reserve_tokens: int = 0
    max_context_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SystemInput:
    """All that a system may be made from; each takes what it needs.

    Args:
        model: frozen.
        corpus_ids: of the corpus alone; the renderer puts it into a chat's system message.
        cartridge: for "cartridge".
    """

    model: PreTrainedModel
    renderer: ChatRenderer
    corpus_ids: TokenIds = ()
    cartridge: Cartridge | None = None
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def context(self) -> dict[str, Any]:
        """The arguments of those that put the corpus into the context."""
        return {
            "model": self.model,
            "renderer": self.renderer,
            "corpus_ids": self.corpus_ids,
            "reserve_tokens": self.sizes.reserve_tokens,
            "max_context_tokens": self.sizes.max_context_tokens,
        }


class SystemKind:
    """An entry of `SYSTEMS`: a subclass in a file of this folder is found by its name.

    It derives from `AskedKind`, `StreamedKind` or both, and writes their methods.

    Attributes:
        name: in settings, tables and logs.
        needs_cartridge, needs_corpus: of `SystemInput`.
    """

    name: ClassVar[str]
    needs_cartridge: ClassVar[bool] = False
    needs_corpus: ClassVar[bool] = True

    def check(self, config: PretrainedConfig, sizes: Sizes) -> None:
        """Refuse sizes that the model of this config cannot have, before it is loaded.

        Raises:
            ValueError: the message names the size.
        """


class AskedKind(SystemKind, ABC):
    """A system that can be asked about a corpus."""

    @abstractmethod
    def read(self, given: SystemInput) -> System:
        """Read what questions are about, once for all of them.

        Raises:
            ContextTooLong: it does not fit the model's positions.
        """


class StreamedKind(SystemKind, ABC):
    """A system that gives a document's log-probabilities, token by token."""

    @abstractmethod
    def logprobs(self, model: PreTrainedModel, input_ids: Tensor, sizes: Sizes) -> Tensor:
        """Log-probabilities fp32 [rows, tokens - 1] of ``input_ids`` [rows, tokens], each given tokens before it."""

    def held_tokens(self, config: PretrainedConfig, documents: Sequence[Sequence[int]], sizes: Sizes) -> int:
        """Positions that it may hold at once for these documents, beside those of the stride that is being read.

        Raises:
            ContextTooLong: more than the model has.
        """
        return sizes.cascade.total_tokens
