"""What a model's folder or repository can do wrong while it loads, in one line that names the setting and its value.

transformers, safetensors, torch and the Hub's client each raise errors of their own, of many kinds and of many lines, some
with advice that would run a stranger's code. Whatever they raise about a file becomes a `ModelError` here.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from lit_cartridges.errors import CartridgesError
from lit_cartridges.models.readable import UnreadableModelError

_LONGEST_REASON = 300
NEEDS_ITS_CODE = (
    "it needs code of its own to load, and a stranger's code is not run; if you have read it and trust it, set "
    "trust_remote_code (model.trust_remote_code: true in a recipe, --trust_remote_code of the other commands)"
)


class ModelError(CartridgesError, ValueError):
    """A model that cannot be loaded as asked; one line that names the setting, its value and the mend."""


class Refused(Exception):
    """Why a model is not loaded; `explained` puts the setting and its value in front."""


@contextmanager
def explained(name: str, *, setting: str = "model", revision: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong inside, while ``name`` is read, into a `ModelError`; being out of memory stays itself.

    Args:
        setting: how the user calls the setting that holds ``name``.
        revision: of it, where one was given.
    """
    try:
        yield
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        at = "" if revision is None else f" (revision={revision!r})"
        raise ModelError(f"{setting}={name!r}{at}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Refused | UnreadableModelError):
        return str(error)
    whole, said = str(error), one_line(str(error))
    if "trust_remote_code=True" in whole:
        return NEEDS_ITS_CODE
    if isinstance(error, pickle.UnpicklingError):
        return (
            "its weights are a pickle that asks for more than tensors, or a damaged one, and a pickle is never run; give "
            "a model with safetensors files"
        )
    if isinstance(error, SafetensorError | EOFError):
        return f"its weights are truncated or damaged ({said or 'empty'}); download or save them again"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"one of its files is not JSON ({said}); download or save it again"
    for kind, reason in _BY_KIND.items():
        if isinstance(error, kind):
            return reason
    for sign, reason in _BY_SIGN.items():
        if sign in whole:
            return reason
    return f"it cannot be loaded ({type(error).__name__}: {said})"


# The first that is the error's; some of these are kinds of others.
_BY_KIND: dict[type[Exception], str] = {
    GatedRepoError: "the Hub gives it only to those who asked for it; ask there, and set token or HF_TOKEN",
    RepositoryNotFoundError: (
        "it is no folder here, and the Hub has no such model for us; correct the name, or set token or HF_TOKEN for a "
        "private one"
    ),
    RevisionNotFoundError: "the Hub has no such revision of it; correct revision",
    LocalEntryNotFoundError: (
        "it is no folder here, and the Hub cannot be reached nor has its cache this model in this revision; correct the "
        "name, or download it first"
    ),
    HFValidationError: "it is neither a folder here nor a Hub id; correct the name",
}
# What a message of transformers or torch says → what to say instead.
_BY_SIGN = {
    "is not a valid JSON file": "its config.json is not JSON; download or save it again",
    "PytorchStreamReader": "its weights are truncated or damaged; download or save them again",
    "Unrecognized model": (
        "its config.json names no model_type that this release of transformers knows; give a language model's folder, or "
        "upgrade transformers"
    ),
}


def one_line(text: str) -> str:
    """The text without line breaks and control characters, cut where it grows long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + "…"
