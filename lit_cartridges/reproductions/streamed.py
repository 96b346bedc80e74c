"""Tables of streaming perplexity: documents read through caches of some sizes, each kept as soon as it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from transformers import PretrainedConfig

from lit_cartridges.cascade import CascadingCache
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.streaming import StreamingResult, streamed_documents, streaming_perplexity
from lit_cartridges.evals.systems import DENSE
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.reproductions.kept import kept
from lit_cartridges.reproductions.reproduction import POCKET, Measured, Reproduction
from lit_cartridges.settings import DTypeName, NonNegativeInt, PositiveInt, Range, ReadCorpus, checked

Length = Annotated[int, Range(least=2, most=2**31)]


@dataclass(frozen=True, kw_only=True)
class LayeredOptions(CascadeOptions):
    """Options, with arguments of `CascadingCache` that differ between layers in their place."""

    per_layer: Mapping[str, Any] = field(default_factory=dict)

    def new_cache(self, config: PretrainedConfig) -> CascadingCache:
        """See `CascadeOptions.new_cache`."""
        options = {name: getattr(self, name) for name in asdict(CascadeOptions())}
        return CascadingCache(config=config, **(options | dict(self.per_layer)))


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One document's first tokens: nats per token, how many were scored, and the seconds of reading where they are all of it."""

    nats: float
    tokens: int
    seconds: float


class StreamedReproduction(Reproduction):
    """Every token of a document is scored once, behind those before it. Errors are over documents.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        corpora: texts, or folders of them, each file a document; without any, held-out worlds of the bundled model.
        lengths: first tokens of the documents that count, powers of two, a column each; a document is read once for all of
            them, and left out of columns that it is too short for. Without any, documents count whole.
        sink_tokens, stride_tokens: of all caches.
        plain: read documents behind the tokenizer's first token alone; if not, as the system message of a chat.
        dtype: of the model.
    """

    higher_is_better = False
    form = "{:.4f}"
    x_title = "positions behind the sinks"

    @checked
    def __init__(
        self,
        *,
        model: str,
        corpora: Sequence[ReadCorpus] = (),
        lengths: Sequence[Length] = (),
        sink_tokens: NonNegativeInt = 64,
        stride_tokens: PositiveInt = 1024,
        plain: bool = True,
        dtype: DTypeName = "auto",
    ) -> None:
        if odd := [length for length in lengths if length & (length - 1)]:
            raise SettingError(f"holds {odd[0]}, which is no power of two", lengths=list(lengths))
        if not corpora and model != POCKET:
            raise SettingError("names no text; give some files", corpora=list(corpora))
        self.model_name, self.dtype, self.plain = model, dtype, plain
        self.corpora = list(corpora)
        self.lengths: list[int | None] = [*lengths] or [None]
        self.sink_tokens, self.stride_tokens = sink_tokens, stride_tokens

    def options(self, positions: int, **changes: Any) -> LayeredOptions:
        """Of a cache of so many positions behind the sinks."""
        total, sinks = positions + self.sink_tokens, self.sink_tokens
        own = {"total_tokens": total, "sink_tokens": sinks, "stride_tokens": self.stride_tokens}
        return LayeredOptions(**(own | changes))

    def read(
        self, system: str, options: CascadeOptions, length: int | None, *, more_than: int = 0
    ) -> dict[str, Scored]:
        """The first ``length`` tokens of each document that has as many, and has ``more_than`` so many.

        Raises:
            ContextTooLong: one does not fit.
        """
        # A stream is read once for all lengths; of what is read at once, the shorter ones may fit alone.
        longest = length if system == DENSE else max(filter(None, self.lengths), default=None)
        return {
            name: _scored(self._result(system, options, name, ids[:longest]), length)
            for name, ids in self._documents
            if len(ids) > more_than and len(ids) >= (length or 0)
        }

    @cached_property
    def _model(self) -> Any:
        return load_model(self.model_name, dtype=self.dtype, device=self.device)

    @cached_property
    def _documents(self) -> list[tuple[str, list[int]]]:
        longest = max(filter(None, self.lengths), default=None)
        corpora: list[Any] = self.corpora or [
            WorldCorpus(seed=901 + i, num_tokens=(longest or 2048) + 32) for i in range(3)
        ]
        found = streamed_documents(
            corpora, load_tokenizer(self.model_name), num_tokens=longest, plain=self.plain
        )
        return [(f"{number} {name}", ids) for number, (name, ids) in enumerate(found)]

    def _result(self, system: str, options: CascadeOptions, name: str, ids: list[int]) -> StreamingResult:
        known = {"system": system, "options": asdict(options), "document": name, "tokens": len(ids)}
        if system == DENSE:
            del known["options"]
        made = kept(
            self.folder,
            known,
            lambda: asdict(streaming_perplexity(self._model, [ids], system, options)),
        )
        return StreamingResult(**made)


def perplexity(found: Mapping[str, Scored]) -> Measured:
    """Over all tokens of all documents."""
    own = _measured({name: one.nats for name, one in found.items()}, found)
    nats = own.figure()
    even = math.exp(nats.mean or 0.0)
    error = None if nats.standard_error is None else even * nats.standard_error
    return replace(own, mean=even, standard_error=error, facts={"nats_per_token": nats.mean})


def above(found: Mapping[str, Scored], base: Mapping[str, Scored]) -> Measured:
    """Nats per token above those of another system in the same documents."""
    apart = _measured({name: one.nats - base[name].nats for name, one in found.items()}, found)
    return replace(apart, seconds=0.0)  # nothing is read for it


def percent_above(found: Mapping[str, Scored], base: Mapping[str, Scored]) -> Measured:
    """How much higher the perplexity is, in percent."""
    own = above(found, base)
    nats = own.figure()
    ratio = math.exp(nats.mean or 0.0)
    error = None if nats.standard_error is None else 100 * ratio * nats.standard_error
    return replace(own, mean=100 * (ratio - 1), standard_error=error, facts={"nats_above": nats.mean})


def _measured(values: Mapping[str, float], found: Mapping[str, Scored]) -> Measured:
    return Measured(
        values=tuple(values.values()),
        weights=tuple(float(one.tokens) for one in found.values()),
        clusters=tuple(found),
        seconds=sum(one.seconds for one in found.values()),
    )


def _scored(result: StreamingResult, length: int | None) -> Scored:
    """The first ``length`` tokens are whole spans of `StreamingResult.by_position`, being a power of two."""
    spans = [one for one in result.by_position if length is None or one[0] < length]
    tokens = sum(last - first + 1 for first, last, _ in spans)
    nats = sum((last - first + 1) * nats for first, last, nats in spans) / tokens
    return Scored(nats=nats, tokens=tokens, seconds=result.seconds if tokens == result.num_tokens else 0.0)
