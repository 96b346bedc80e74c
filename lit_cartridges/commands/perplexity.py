"""``lit-cartridges perplexity``: streaming perplexity of documents many times the context, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from jsonargparse.typing import SecretStr

from lit_cartridges.cascade.options import DEFAULT_CASCADE, CascadeOptions
from lit_cartridges.commands.measuring import left_out_where_too_long, require_sizes, write_json
from lit_cartridges.corpora.corpus import Corpus
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.streaming import StreamingResult, streamed_documents, streaming_perplexity
from lit_cartridges.evals.systems import (
    CASCADE,
    DENSE,
    STREAMING_LLM,
    TRUNCATED,
    Sizes,
    StreamedKind,
    chosen,
)
from lit_cartridges.evals.table import aligned
from lit_cartridges.models import hub_options, load_config, load_model, load_tokenizer
from lit_cartridges.models.base_weights import plain_token
from lit_cartridges.settings import (
    DeviceName,
    DTypeName,
    PositiveInt,
    Range,
    ReadCorpus,
    WriteJsonName,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig


@checked
def perplexity_command(
    *,
    model: str,
    corpora: Sequence[Corpus | ReadCorpus],
    systems: Sequence[str] = (CASCADE, STREAMING_LLM, TRUNCATED, DENSE),
    cascade: CascadeOptions = DEFAULT_CASCADE,
    num_tokens: Annotated[int, Range(least=2, most=2**31 - 1)] | None = None,
    max_context_tokens: PositiveInt | None = None,
    plain: bool = False,
    out: WriteJsonName | None = None,
    dtype: DTypeName = "auto",
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
) -> list[StreamingResult]:
    """Perplexity of documents that are streamed, each from a fresh cache, every token scored once.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        corpora: text files, folders, or readers; each of their documents is a stream of its own.
        systems: of "cascade", "streaming_llm" (one sub-cache of the same total size), "truncated" (dense attention to as
            many last tokens, read anew for every stride) and "dense", which is left out where a document does not fit.
        cascade: the size of the cache, and how it scores.
        num_tokens: cut documents after so many.
        max_context_tokens: positions that dense may use, if fewer than the model has.
        plain: read documents behind the tokenizer's first token alone; by default they are the system message of a chat
            where the tokenizer has a template.
        out: JSON file for the figures.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16".
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``.

    Returns:
        One result per system, in the given order.

    Raises:
        ValueError: settings that do not go together, or documents without text: all before the model is loaded.
    """
    kinds = chosen(systems, StreamedKind)
    settings: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "revision": revision,
        "token": plain_token(token),
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    hub = hub_options(settings)
    require_sizes(kinds, load_config(model, **hub), Sizes(cascade=cascade))
    tokenizer = load_tokenizer(model, **hub)
    found = streamed_documents(corpora, tokenizer, num_tokens=num_tokens, plain=plain)
    documents = [ids for _, ids in found]
    frozen = load_model(model, **settings)
    results: list[StreamingResult] = []
    for system in systems:
        with left_out_where_too_long():
            results.append(
                streaming_perplexity(
                    frozen, documents, system, cascade, max_context_tokens=max_context_tokens
                )
            )
    if results:
        print(_table(results))
    if out is not None:
        write_json(out, {"model": model, "results": [result.as_dict() for result in results]})
    return results


def _table(results: Sequence[StreamingResult]) -> str:
    """With several documents, also what each system's nats per token are above the first one's, and the standard error of
    that over documents."""
    header = ["system", "KV positions", "documents", "tokens", "nats/token", "perplexity", "tokens/s"]
    rows = [
        [
            r.system,
            f"{r.held_tokens:,}",
            f"{r.num_documents:,}",
            f"{r.num_tokens:,}",
            f"{r.nats_per_token:.4f}",
            f"{r.perplexity:.3f}",
            f"{r.num_tokens / r.seconds:,.0f}",
        ]
        for r in results
    ]
    first, *others = results
    if others and first.num_documents > 1:
        header.append(f"− {first.system}")
        for row, r in zip(rows, results, strict=True):
            above = [a - b for a, b in zip(r.by_document, first.by_document, strict=True)]
            row.append("–" if r is first else with_error(Mean.of(above), "{:+.4f}"))
    return aligned([header, *rows])
