"""Whether a model was loaded whole: weights that its files lack would be random numbers, and answers would still be fluent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lit_cartridges.models.errors import Refused


def require_whole(model: Any, report: dict[str, Any]) -> None:
    """Raise Refused, naming weights, when ``model`` is not what its files hold.

    Weights that are tied to others need not be in the files. What the files hold beside the model (a vision tower, a
    value head, layers that predict further tokens) may stay there; not so a bias of a projection that the model has
    without one, or layers behind its last.

    Args:
        report: transformers' ``output_loading_info``.
    """
    name = type(model).__name__
    if errors := report.get("error_msgs"):
        raise Refused(f"{name} cannot take its files' weights ({str(errors[0])[:200]})")
    if missing := sorted(report.get("missing_keys") or ()):
        raise Refused(
            f"its files lack {len(missing)} weights of {name} ({_some(missing)}), which would start as random numbers; "
            "give a whole causal language model"
        )
    if other := sorted(report.get("mismatched_keys") or (), key=str):
        key, theirs, mine = (*other[0], "?", "?")[:3]
        raise Refused(
            f"{len(other)} of its files' weights have other shapes than its config says ({key}: {_shape(theirs)} against "
            f"{_shape(mine)}); give config and weights that belong together"
        )
    if dropped := _of_the_text(model, report.get("unexpected_keys") or ()):
        raise Refused(
            f"its files hold {len(dropped)} weights that its config leaves out of {name} ({_some(dropped)}); give config "
            "and weights that belong together"
        )


def _of_the_text(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Those of ``unexpected`` that belong to modules or to a stack of layers that the model has."""
    known = {_without_numbers(key) for key in model.state_dict()}
    extra_layers = bool(getattr(model.config.get_text_config(), "num_nextn_predict_layers", 0))
    modules = dict(model.named_modules())
    dropped = []
    for key in sorted(unexpected):
        owner, _, parameter = key.rpartition(".")
        if parameter == "bias" and owner in modules and hasattr(modules[owner], "weight"):
            dropped.append(key)
        elif _without_numbers(key) in known and not extra_layers:
            dropped.append(key)
    return dropped


def _without_numbers(key: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".#", key)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _shape(shape: Any) -> str:
    return str(tuple(shape)) if not isinstance(shape, str) else shape
