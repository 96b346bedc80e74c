"""The README.md of a cartridge: what it stands for, and how to load it, with names of others quoted."""

from __future__ import annotations

import html
import re
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import EvalResult
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import eval_results_to_model_index
from huggingface_hub.utils import validate_repo_id

from lit_cartridges.cartridge_files.facts import CartridgeFacts, Score
from lit_cartridges.terminal import printable_line

_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)
# What Markdown reads as markup, and the signs without which no address becomes a link.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|~!$:]|(?<=www)\.)")
CARTRIDGE = "cartridge"


def model_card(description: dict[str, Any], *, place: str = ".") -> str:
    """A Hub model card.

    Args:
        description: the content of ``cartridge.json``.
        place: what loads the cartridge; as it stands the card is right inside its folder.
    """
    known = CartridgeFacts.of(description)
    lines = [
        "---",
        yaml.safe_dump(
            _metadata(known, place), sort_keys=False, default_flow_style=None, allow_unicode=True
        ).rstrip("\n"),
        "---",
        "# Cartridge",
        "",
        _summary(known),
        "",
        *_snippet(known, place),
        *_scores(known),
        *_settings(known),
    ]
    return "\n".join([*lines, ""])


def _metadata(known: CartridgeFacts, place: str) -> dict[str, Any]:
    """What the Hub reads: the model-index holds the cartridge's own scores."""
    front: dict[str, Any] = {"library_name": "lit_cartridges", "tags": ["cartridge", "kv-cache"]}
    if known.license:
        front["license"] = known.license
    if _on_hub(known.base_model):
        front["base_model"] = known.base_model
    own = [
        EvalResult(
            task_type="question-answering",
            dataset_type="custom",
            dataset_name=html.escape(printable_line(score.task), quote=False),
            metric_type="accuracy",
            metric_value=round(score.accuracy, 4),
            metric_name=f"accuracy of {score.num_questions} answers",
        )
        for score in known.scores
        if score.system == CARTRIDGE
    ]
    if own:
        name = "cartridge" if place == "." else place.rpartition("/")[2]
        front["model-index"] = eval_results_to_model_index(name, own)
    return front


def _summary(known: CartridgeFacts) -> str:
    biases = ", a bias per key" if known.has_biases else ""
    loss = "" if known.loss is None else f", last loss {known.loss:.4f}"
    corpus = f"the corpus {markdown_text(known.corpus)}" if known.corpus else "a corpus"
    length = f"{known.corpus_tokens:,} tokens, " if known.corpus_tokens else ""
    compression = f" Compression: {known.compression:.1f}×." if known.compression else ""
    license = (
        f" Licence of the base model: {known.license}; the corpus may have another." if known.license else ""
    )
    return (
        f"{known.num_tokens} positions of keys{biases} and values for {_shown(known.base_model or 'an unnamed model')}, "
        f"{known.num_frozen_tokens} of them frozen, that stand in place of {corpus} "
        f"({length}sha256 {_shown(known.corpus_sha256 or 'unknown')}).{compression} Init: "
        f"{markdown_text(known.init or 'unknown')}. Trained for {known.steps} optimizer steps{loss}. "
        f"Method: arXiv 2506.06266.{license}"
    )


def _snippet(known: CartridgeFacts, place: str) -> list[str]:
    name = python_text(known.base_model or "the base model")
    name += f", revision={python_text(known.revision)}" if known.revision else ""
    lines = [
        "```python",
        "from lit_cartridges import Cartridge",
        "from lit_cartridges.models import load_model, load_tokenizer",
        "",
        f"model, tokenizer = load_model({name}), load_tokenizer({name})",
        f"chat = Cartridge.from_pretrained({python_text(place)}).attach(model, tokenizer)",
        'print(chat.chat("What is this text about?"))',
        "```",
        "",
        "`attach` sees to the chat template, the mask and the positions; questions without the template are not understood.",
    ]
    if place == ".":
        lines.append('`"."` is the folder of this file; its path or its name on the Hub does as well.')
    return lines


def _scores(known: CartridgeFacts) -> list[str]:
    if not known.scores:
        return []
    header = ("system", "task", "positions", "accuracy", "log-likelihood per answer token", "questions")
    ordered = sorted(known.scores, key=lambda score: score.system != CARTRIDGE)
    return ["", "## Scores", "", *_table(header, [_cells(score) for score in ordered])]


def _cells(score: Score) -> list[str]:
    return [
        markdown_text(score.system),
        markdown_text(score.task),
        f"{score.num_kv_tokens:,}",
        f"{score.accuracy:.3f} ± {score.accuracy_standard_error:.3f}",
        "–" if score.answer_log_likelihood is None else f"{score.answer_log_likelihood:.3f}",
        f"{score.num_questions:,}",
    ]


def _settings(known: CartridgeFacts) -> list[str]:
    rows = [[markdown_text(name), markdown_text(value)] for name, value in known.settings.items()]
    return ["", "## Settings", "", *_table(("setting", "value"), rows)] if rows else []


def _table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def markdown_text(text: object) -> str:
    """Text of others as Markdown that shows it: no markup, no HTML, one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(printable_line(text), quote=False))


def python_text(text: str) -> str:
    """A Python literal of ``text`` that cannot end its line, nor look like HTML."""
    return f'"{text}"' if _PLAIN.fullmatch(text) else repr(text).replace("<", "\\x3c")


def _shown(name: object) -> str:
    return f"`{name}`" if _PLAIN.fullmatch(str(name)) else markdown_text(name)


def _on_hub(base: str) -> bool:
    """Whether the Hub would take it for a model's name; it refuses cards that link anything else."""
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return bool(_PLAIN.fullmatch(base)) and not base.startswith(("/", "."))
