"""``lit-cartridges passkey``: passkey retrieval by length and depth, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any

from jsonargparse.typing import SecretStr

import lit_cartridges.evals  # noqa: F401  languages can then be named without their module
from lit_cartridges.cascade.options import DEFAULT_CASCADE, CascadeOptions
from lit_cartridges.commands.measuring import left_out_where_too_long, require_sizes, write_json
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.passkey import (
    EnglishPasskey,
    PasskeyCell,
    PasskeyLanguage,
    passkey_cell,
)
from lit_cartridges.evals.systems import CASCADE, STREAMING_LLM, TRUNCATED_ICL, AskedKind, Sizes, chosen
from lit_cartridges.evals.table import aligned
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.models import hub_options, load_config, load_model, load_tokenizer
from lit_cartridges.models.base_weights import plain_token
from lit_cartridges.settings import (
    Count,
    DeviceName,
    DTypeName,
    PositiveInt,
    Range,
    Share,
    WriteJsonName,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig


@checked
def passkey_command(
    *,
    model: str,
    language: PasskeyLanguage | None = None,
    systems: Sequence[str] = (CASCADE, STREAMING_LLM, TRUNCATED_ICL),
    lengths: Sequence[Annotated[int, Range(least=1, most=1_000_000_000)]] | None = None,
    depths: Sequence[Share] = (0.0, 0.25, 0.5, 0.75, 1.0),
    samples: Count = 5,
    cascade: CascadeOptions = DEFAULT_CASCADE,
    max_new_tokens: PositiveInt = 24,
    max_context_tokens: PositiveInt | None = None,
    out: WriteJsonName | None = None,
    dtype: DTypeName = "auto",
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
) -> list[PasskeyCell]:
    """Ask for a key that was stated once in filler, by the text's length and the key's depth.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        language: how texts are made: `EnglishPasskey` by default, `PocketPasskey` for the bundled model.
        systems: of "cascade", "streaming_llm", "icl", "truncated_icl", "no_context".
        lengths: of the texts, in tokens; 1, 4, 16 and 64 times the cache by default.
        depths: share of the filler in front of the key, 0 to 1.
        samples: texts per length and depth; the same for all systems.
        cascade: the size of the cache of cascade, and of streaming_llm, which has one sub-cache in any case.
        max_new_tokens: length at which a reply is cut.
        max_context_tokens: positions that icl and truncated_icl may use, if fewer than the model has.
        out: JSON file for the figures.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16".
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``.

    Returns:
        One cell per system, length and depth. "icl" is left out, with a line, where a text does not fit.

    Raises:
        ValueError: settings that do not go together, before the model is loaded.
    """
    kinds = chosen(systems, AskedKind)
    if not depths or (lengths is not None and not lengths):
        raise EvalError(f"depths={list(depths)}, lengths={lengths}: give at least one of each")
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
    sizes = list(lengths or [cascade.total_tokens * times for times in (1, 4, 16, 64)])
    renderer, language = ChatRenderer(load_tokenizer(model, **hub)), language or EnglishPasskey()
    for size in sizes:
        language.sample(renderer.tokenizer, num_tokens=size, depth=0.0, seed=0)
    frozen = load_model(model, **settings)
    cells: list[PasskeyCell] = []
    for system in systems:
        for size in sizes:
            with left_out_where_too_long():
                cells += [
                    passkey_cell(
                        frozen,
                        renderer,
                        system,
                        language,
                        cascade,
                        num_tokens=size,
                        depth=depth,
                        samples=samples,
                        max_new_tokens=max_new_tokens,
                        max_context_tokens=max_context_tokens,
                    )
                    for depth in depths
                ]
    if cells:
        print(passkey_table(cells))
    if out is not None:
        cells_out = [cell.as_dict() for cell in cells]
        write_json(out, {"model": model, "cascade": vars(cascade), "cells": cells_out})
    return cells


def passkey_table(cells: Sequence[PasskeyCell]) -> str:
    """A line per system and length: means over the depths, then the share of right digits at each depth."""
    depths = sorted({cell.depth for cell in cells})
    rows = [["system", "tokens", "texts", "per digit", "exact", *(f"at {depth:.0%}" for depth in depths)]]
    for system, size in dict.fromkeys((cell.system, cell.num_tokens) for cell in cells):
        row = {c.depth: c for c in cells if (c.system, c.num_tokens) == (system, size)}
        rows.append(
            [
                system,
                f"{size:,}",
                str(sum(cell.samples for cell in row.values())),
                f"{fmean(cell.per_digit for cell in row.values()):.3f}",
                f"{fmean(cell.exact for cell in row.values()):.3f}",
                *(f"{row[depth].per_digit:.2f}" if depth in row else "–" for depth in depths),
            ]
        )
    return aligned(rows)
