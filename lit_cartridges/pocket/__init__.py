"""A little language and a little model that reads it, so that everything runs where no weights can be downloaded."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from lit_cartridges.pocket.language import SEED_PROMPTS
from lit_cartridges.pocket.tokenizer import unknown_words
from lit_cartridges.pocket.world import World

__all__ = ["SEED_PROMPTS", "SELF_STUDY", "World", "model_path", "unknown_words"]

SELF_STUDY: dict[str, Any] = {
    "seed_prompts": SEED_PROMPTS,
    "min_chunk_tokens": 64,
    "max_chunk_tokens": 128,
    "question_temperature": 0.8,
    "question_max_tokens": 24,
    "answer_max_tokens": 32,
}
"""Settings of `SelfStudy` with which the bundled model studies a text of a few hundred tokens in seconds."""


def model_path() -> Path:
    """The folder of the bundled model, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    return Path(str(files("lit_cartridges.pocket") / "model"))
