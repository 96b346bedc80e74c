"""A folder of cartridges of the bundled model, and of a tiny one, made without training."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.pocket.task import PocketQuestions

POCKET = "package:lit_cartridges.pocket/model"
SERVED = "lit_cartridges.pocket/model"


@cache
def pocket():
    """The bundled model and its tokenizer."""
    return load_model(POCKET), load_tokenizer(POCKET)


@cache
def task(seed: int) -> PocketQuestions:
    return PocketQuestions(seed=seed, num_tokens=60 + 40 * seed, num_questions=20)


def of_text(seed: int) -> Cartridge:
    """The prefill of a text of 60 + 40 · seed tokens, and so as good as the text."""
    model, tokenizer = pocket()
    ids = tokenizer(task(seed).corpus.text, add_special_tokens=False)["input_ids"]
    known = Provenance(
        base_model=POCKET,
        fingerprint=Fingerprint.of_config(model.config),
        base=base_of(model),
        corpus_sha256=sha256(task(seed).corpus.text.encode()).hexdigest(),
        notes={"corpus": {"name": f"text {seed}", "tokens": 10 * len(ids)}},
    )
    return Cartridge(*prefill(model, ChatRenderer(tokenizer).context_ids(ids)), provenance=known)


def fill(folder: Path, **seeds: int) -> Path:
    """Each text's cartridge under a name, by turns as a run and as a cartridge's own folder."""
    for at, (name, seed) in enumerate(seeds.items()):
        of_text(seed).save_pretrained(folder / name / "cartridge" if at % 2 == 0 else folder / name)
    return folder
