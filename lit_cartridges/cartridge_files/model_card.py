"""The README.md of a cartridge: what it stands for, and how to load it, with names of others quoted."""

from __future__ import annotations

import html
import re
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lit_cartridges.terminal import printable_line

_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)
# What Markdown reads as markup, and the signs without which no address becomes a link.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|~!$:]|(?<=www)\.)")


def model_card(description: dict[str, Any], *, place: str = ".") -> str:
    """A Hub model card.

    Args:
        description: the content of ``cartridge.json``.
        place: what loads the cartridge; as it stands the card is right inside its folder.
    """
    known = description["provenance"]
    base = str(known["base_model"] or "")
    front: dict[str, Any] = {"library_name": "lit_cartridges", "tags": ["cartridge", "kv-cache"]}
    if _on_hub(base):
        front["base_model"] = base
    biases = ", a bias per key" if description["format_version"] > 1 else ""
    loss = "" if known["loss"] is None else f", last loss {known['loss']:.4f}"
    name = python_text(base or "the base model")
    revision = (known.get("base") or {}).get("revision")
    name += f", revision={python_text(str(revision))}" if revision else ""
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, default_flow_style=None, allow_unicode=True).rstrip("\n"),
        "---",
        "# Cartridge",
        "",
        f"{description['num_tokens']} positions of keys{biases} and values for {_shown(base or 'an unnamed model')}, "
        f"{description['num_frozen_tokens']} of them frozen, that stand in place of a corpus "
        f"(sha256 {_shown(known['corpus_sha256'] or 'unknown')}). Init: {markdown_text(known['init'] or 'unknown')}. "
        f"Trained for {known['steps']} optimizer steps{loss}. Method: arXiv 2506.06266.",
        "",
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
    return "\n".join([*lines, ""])


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
