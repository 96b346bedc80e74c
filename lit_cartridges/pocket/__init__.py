"""A little language and a little model that reads it, so that everything runs where no weights can be downloaded."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lit_cartridges.pocket.language import SEED_PROMPTS
from lit_cartridges.pocket.tokenizer import unknown_words
from lit_cartridges.pocket.world import World

__all__ = ["SEED_PROMPTS", "World", "model_path", "unknown_words"]


def model_path() -> Path:
    """The folder of the bundled model, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    return Path(str(files("lit_cartridges.pocket") / "model"))
