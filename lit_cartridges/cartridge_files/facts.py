"""What is known of a cartridge: the facts on its card, and on the pages of ``lit-cartridges report``.

All of it stands in ``cartridge.json``, so that it goes wherever the cartridge goes. Four facts are notes of its provenance:
``corpus`` (name and tokens) and ``license`` (the base model's) from the beginning of a training, ``settings`` and ``scores`` from
its saves; ``lit-cartridges evaluate --on_card true`` adds scores. A note of another form is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache

from lit_cartridges.files.content import record
from lit_cartridges.provenance import Provenance

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
# Of a run's settings, those that say how the cartridge was made.
_SETTINGS = (
    *(
        "model.objective",
        "model.teacher_model",
        "model.learning_rate",
        "model.warmup_steps",
        "trainer.max_steps",
    ),
    *("trainer.devices", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val", "data.source"),
    *("data.source.teacher", "data.source.min_chunk_tokens", "data.source.max_chunk_tokens"),
    *("data.source.corpus_before_chunk", "data.source.conversations_per_group", "data.source.num_rounds"),
    *("data.source.question_temperature", "data.source.answer_temperature", "data.source.top_k"),
    *("data.system_template", "data.enable_thinking"),
    *("data.off_corpus", "data.off_corpus_fraction"),
    *("data.source.off_corpus_share", "data.uses", "data.tokens_per_batch", "data.seed", "seed_everything"),
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one system reached on one task.

    Args:
        system: whose; "cartridge" is the card's own.
        accuracy: share of right replies, 0 to 1, and its standard error.
        answer_log_likelihood: of the reference answers, in nats per token; None where there are none.
        num_kv_tokens: positions in front of the question.
    """

    task: str
    system: str
    accuracy: float
    accuracy_standard_error: float
    answer_log_likelihood: float | None
    num_questions: int
    num_kv_tokens: int


@dataclass(frozen=True, kw_only=True)
class CartridgeFacts:
    """See the module; what is not known is empty or None."""

    num_tokens: int
    num_frozen_tokens: int
    has_biases: bool
    base_model: str
    revision: str
    init: str
    steps: int
    loss: float | None
    corpus_sha256: str
    corpus: str
    corpus_tokens: int | None
    license: str
    settings: Mapping[str, str]
    scores: tuple[Score, ...]

    @property
    def compression(self) -> float | None:
        """Corpus tokens per position."""
        return self.corpus_tokens / self.num_tokens if self.corpus_tokens else None

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> CartridgeFacts:
        """Of the content of ``cartridge.json``."""
        known = description["provenance"]
        notes = _mapping(known.get("notes"))
        corpus = _mapping(notes.get("corpus"))
        tokens, license = corpus.get("tokens"), str(notes.get("license") or "")
        return cls(
            num_tokens=description["num_tokens"],
            num_frozen_tokens=description["num_frozen_tokens"],
            has_biases=description["format_version"] > 1,
            base_model=str(known["base_model"] or ""),
            revision=str((known.get("base") or {}).get("revision") or ""),
            init=str(known["init"] or ""),
            steps=known["steps"],
            loss=known["loss"],
            corpus_sha256=str(known["corpus_sha256"] or ""),
            corpus=str(corpus.get("name") or ""),
            corpus_tokens=tokens if isinstance(tokens, int) and 0 < tokens < 2**63 else None,
            license=license if _LICENSE.fullmatch(license) else "",
            settings={str(k): str(v) for k, v in _mapping(notes.get("settings")).items()},
            scores=tuple(_scores(notes.get("scores"))),
        )


def card_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's settings (`run_settings`), those for the card, as plain values."""
    shown = ((name, settings.get(name)) for name in _SETTINGS)
    return {
        name: value["as"] if isinstance(value, dict) and "as" in value else value
        for name, value in shown
        if value is not None
    }


def with_scores(known: Provenance, scores: Iterable[Score]) -> Provenance:
    """The provenance with these scores; of one task and system the newer one stands."""
    merged = {(one.task, one.system): one for one in (*_scores(known.notes.get("scores")), *scores)}
    return replace(known, notes={**known.notes, "scores": [asdict(one) for one in merged.values()]})


def trained_prompts(*known: Provenance) -> dict[str, Any]:
    """Of the prompts that all these cartridges were trained with, what `ChatRenderer` takes; what is not known is left out."""
    settings = [_mapping(one.notes.get("settings")) for one in known]
    kinds: dict[str, type] = {"system_template": str, "enable_thinking": bool}
    found = {name: [one.get(f"data.{name}") for one in settings] for name in kinds}
    return {
        name: values[0]
        for name, values in found.items()
        if values and isinstance(values[0], kinds[name]) and all(value == values[0] for value in values)
    }


def license_of(model: str | Path) -> str:
    """The licence that a model's own card names: in its folder, or in the Hub's cache; nothing where there is none."""
    try:
        found = Path(model, "README.md") if Path(model).is_dir() else None
        if found is None:
            cached = try_to_load_from_cache(str(model), "README.md")
            found = Path(cached) if isinstance(cached, str) else None
        known = metadata_load(found) if found is not None and found.is_file() else None
    except Exception:  # somebody's file, of which nothing is needed
        return ""
    named = str((known or {}).get("license") or "").lower()
    return named if _LICENSE.fullmatch(named) else ""


def _mapping(note: Any) -> dict[str, Any]:
    return note if isinstance(note, dict) else {}


def _scores(notes: Any) -> Iterable[Score]:
    for note in notes if isinstance(notes, list) else ():
        try:
            yield record(Score, note, "score")
        except ValueError:
            continue
