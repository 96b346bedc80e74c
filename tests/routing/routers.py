"""Routers of the tiny models and of the bundled one, made without training."""

from __future__ import annotations

from functools import cache
from typing import Any

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models.base_weights import digest_of
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.making import RouterSettings, make_router
from lit_cartridges.routing.router import Owner, Router


def questions(seed: int, count: int = 60) -> list[str]:
    """About a text of the bundled model's language; those of a seed share few names with another's."""
    task = PocketQuestions(seed=seed, num_tokens=150, num_questions=count, part=(seed % 8, 8))
    return list(dict.fromkeys(question.prompt for question in task.questions()))


def made(model: Any, tokenizer: Any, asked: list[str], others: list[str], **owner: str) -> Router:
    """With the tests' settings."""
    embedder = QuestionEmbedder(model, ChatRenderer(tokenizer))
    settings = RouterSettings(alpha=0.1, nearest=3)
    return make_router(embedder, asked, others, settings, owner=Owner(**owner)).router


@cache
def pocket_router(model: Any, tokenizer: Any, cartridge: Cartridge, seed: int) -> Router:
    """Of questions about the text of ``seed`` against those about others."""
    known = cartridge.provenance
    owner = {"digest": digest_of(known), "corpus_sha256": known.corpus_sha256}
    others = [text for other in range(seed + 1, seed + 4) for text in questions(other)]
    return made(model, tokenizer, questions(seed), others, **owner)
