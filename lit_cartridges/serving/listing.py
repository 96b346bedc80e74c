"""``GET /v1/models``: the model, every cartridge on the shelf with what its file says of it, and the corpora to compare with."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_cartridges.routing.router_file import ROUTER
from lit_cartridges.serving.residents import ICL
from lit_cartridges.serving.shelf import Shelved

if TYPE_CHECKING:
    from lit_cartridges.serving.service import Service

_STARTED_S = int(time.time())


def listed(service: Service) -> list[dict[str, Any]]:
    """In OpenAI's form; beside it the positions left (``max_model_len``, as vLLM has it) and, of cartridges, ``cartridge``."""
    limit = service.max_positions
    base = _entry(service.name, _STARTED_S, limit) | {"kv_bytes_per_token": service.residents.bytes_per_token}
    models = [base]
    for shelved in service.shelf.all():
        models.append(_of(shelved, service.name, limit))
        if (ids := service.residents.corpus_of(shelved)) is not None:
            left = None if limit is None else limit - len(ids)
            entry = _entry(f"{shelved.name}{ICL}", _STARTED_S, left)
            models.append({**entry, "parent": service.name, "corpus_of": shelved.name})
    return models


def _entry(name: str, created_s: int, positions: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "lit_cartridges",
        "max_model_len": positions,
    }


def _of(shelved: Shelved, base: str, limit: int | None) -> dict[str, Any]:
    facts = shelved.facts
    left = None if limit is None else limit - facts.num_tokens
    told = {
        "num_tokens": facts.num_tokens,
        "corpus": facts.corpus or None,
        "corpus_tokens": facts.corpus_tokens,
        "compression": facts.compression,
        "steps": facts.steps,
        "loss": facts.loss,
        "router": (shelved.folder / ROUTER).is_file(),
        "scores": [asdict(score) for score in facts.scores],
    }
    return {**_entry(shelved.name, shelved.made_s, left), "parent": base, "cartridge": told}
