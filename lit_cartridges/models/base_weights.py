"""Which weights a cartridge belongs to, beside the model's name: what loading learns, cartridges record, and chats compare.

`load_model` notes on the model's object what it knows: ``digest`` (see `weights_digest`), ``revision`` as asked for,
``commit`` of the Hub, ``dtype``, and ``quantization`` where there is one. `Provenance.base` of a cartridge holds the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from lit_cartridges.models.errors import ModelError

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge, Provenance

_NOTED = "lit_cartridges_base"
DTYPES = ("float32", "bfloat16", "float16")
# A branch, a tag or a commit; what a cartridge says becomes part of a path in the Hub's cache.
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]*", re.ASCII)


def plain_token(token: Any) -> str | None:
    """A token that a command line hides, as the Hub's client takes it."""
    return token.get_secret_value() if hasattr(token, "get_secret_value") else token


def note_base(model: nn.Module, facts: dict[str, Any]) -> None:
    """Keep what is known of the weights, without what is empty."""
    model.__dict__[_NOTED] = {key: value for key, value in facts.items() if value}


def base_of(model: nn.Module) -> dict[str, Any]:
    """What `load_model` knew of the weights; nothing of a model that was loaded otherwise."""
    return dict(getattr(model, _NOTED, {}))


def digest_of(provenance: Provenance) -> str:
    """The digest that a cartridge carries, or an empty text."""
    digest = provenance.base.get("digest", "") if isinstance(provenance.base, dict) else ""
    return digest if isinstance(digest, str) else ""


def other_weights(cartridge: Cartridge, model: nn.Module) -> str | None:
    """One line where ``model`` has other weights than the cartridge was made with, or may have; None where it has not."""
    known, name = (
        cartridge.provenance,
        str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
    )
    mine, theirs = digest_of(known), base_of(model).get("digest", "")
    if mine and theirs:
        if mine == theirs:
            return None
        return (
            f"the cartridge was made with the weights of {known.base_model!r} (digest {mine[:12]}), and {name!r} has other "
            f"weights of the same shapes ({theirs[:12]}): its answers cannot be relied on"
        )
    if known.base_model and known.base_model != name:
        return (
            f"the cartridge was made with the weights of {known.base_model!r} and the model is {name!r}; whether that has "
            "the same weights or others cannot be told, since one of them carries no digest"
        )
    return None


def require_same_weights(provenances: Sequence[Provenance]) -> None:
    """Raise ValueError where cartridges that are to be composed carry different digests."""
    known = {digest: each.base_model for each in provenances if (digest := digest_of(each))}
    if len(known) > 1:
        what = ", ".join(
            f"{name or 'an unnamed model'!r} (digest {digest[:12]})" for digest, name in known.items()
        )
        raise ValueError(f"cannot compose cartridges that were made with different weights: {what}")


def recorded_settings(provenance: Provenance, given: dict[str, Any]) -> dict[str, Any]:
    """``revision``, ``dtype`` and ``quantization_config`` that a cartridge was made with, for loading the model it names.

    Args:
        given: what the user said instead; what it holds is not read from the cartridge.

    Raises:
        ModelError: it names what no file may decide: a revision that is none, or a quantisation other than bitsandbytes'.
    """
    base = provenance.base if isinstance(provenance.base, dict) else {}
    settings: dict[str, Any] = {}
    revision = base.get("commit") or base.get("revision")
    if revision and given.get("revision") is None:
        if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
            raise ModelError(
                f"the cartridge records revision={revision!r} of its model, which is none; give --model"
            )
        settings["revision"] = revision
    if base.get("dtype") in DTYPES:
        settings["dtype"] = base["dtype"]
    quantization = base.get("quantization_config")
    if quantization and given.get("quantization_config") is None:
        if not is_bitsandbytes(quantization):
            raise ModelError(
                "the cartridge was made with a quantised model, in a way that is not taken from a file; give --model and "
                f"--quantization_config (recorded: {str(quantization)[:200]!r})"
            )
        settings["quantization_config"] = quantization
    return settings


def with_recorded(
    provenances: Sequence[Provenance], named: str | None, given: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The model's name and how to load it: as the first cartridge that names its model records it, where ``named`` is
    None, and as ``given`` where that says something.

    Returns:
        The name, None where nobody names one; and options of `load_model`, ``dtype`` "auto" if nothing is known of it.
    """
    naming = (known for known in provenances if known.base_model and isinstance(known.base_model, str))
    source = None if named else next(naming, None)
    settings = {"dtype": "auto"} | (recorded_settings(source, given) if source else {})
    settings |= {key: value for key, value in given.items() if value is not None}
    return named or (source.base_model if source else None), settings


def is_bitsandbytes(given: Any) -> bool:
    """Whether it is plain settings of bitsandbytes: those read nothing and run nothing."""
    if not isinstance(given, dict) or str(given.get("quant_method", "bitsandbytes")) != "bitsandbytes":
        return False
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in given.values())
    return plain and bool(given.get("load_in_4bit") or given.get("load_in_8bit"))
