"""What the installed transformers calls a cache: ``cache`` from 5.24 on, ``past_key_values`` before.

5.24 still takes the old name, says so on every run, and stops taking it in 5.40 (forward calls) and 6.0 (``generate``). Its own
``generate`` hands models the new one only, so what looks at a forward call's keywords has to know both:

    model(ids, **cache_argument(cache), use_cache=True)
    model.generate(ids, **cache_argument(cache))
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import Cache, GenerationMixin

_NAMES = ("cache", "past_key_values")
_TAKEN = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE_NAME = next(name for name in _NAMES if name in _TAKEN)


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The keyword that hands ``cache`` to a model's forward call or to its ``generate``."""
    return {CACHE_NAME: cache}


def cache_among(keywords: Mapping[str, Any]) -> Any:
    """The cache that a forward call was given under either name, or None."""
    return next((keywords[name] for name in _NAMES if keywords.get(name) is not None), None)


def cache_of(output: Any) -> Any:
    """The cache in what a forward call or ``generate`` returned, or None."""
    return getattr(output, CACHE_NAME, None)
