"""Settings of 0.1 that have another name now: refused where they are given, and read as what they are now in a checkpoint.

What only one source of training examples needs stood flat under ``data.``, and is under ``data.source.`` now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from lit_cartridges.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")
_OF_SELF_STUDY = (
    *("teacher", "min_chunk_tokens", "max_chunk_tokens", "seed_prompts", "corpus_before_chunk"),
    *("conversations_per_group", "num_rounds", "question_temperature", "question_max_tokens"),
    *(
        "answer_temperature",
        "answer_max_tokens",
        "top_k",
        "min_mass",
        "off_corpus",
        "off_corpus_share",
        "recording",
    ),
)
# Old name -> the new one, and the source that has it.
MOVED: dict[str, tuple[str, str]] = {
    **{f"data.{name}": (f"data.source.{name}", "SelfStudy") for name in _OF_SELF_STUDY},
    "data.recorded": ("data.source.path", "Recorded"),
    "data.raw_corpus": ("data.source", "RawCorpus"),
    "data.window_tokens": ("data.source.window_tokens", "RawCorpus"),
}
# Names that mean something else now, and are refused by their values where those are of then.
_NEW = {"data.off_corpus"}


def refuse_moved(settings: Mapping[str, Any]) -> None:
    """
    Raises:
        SettingError: one of these has another name now.
    """
    for name in settings.keys() & MOVED.keys() - _NEW:
        new, source = MOVED[name]
        of = f"give data.source={source}" if new == "data.source" else f"of data.source={source}"
        raise SettingError(f"this setting is {new} now, {of}", {name: settings[name]})


def refuses_moved(prefix: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A constructor whose settings stand under ``prefix`` on the command line refuses those that have moved."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            refuse_moved({f"{prefix}.{name}": value for name, value in kwargs.items()})
            return function(*args, **kwargs)

        return run

    return decorated


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings by their names of now; of a source that it did not use, none."""
    if "data.source" in settings or "data.uses" not in settings:
        return dict(settings)
    source = "RawCorpus" if settings.get("data.raw_corpus") else "SelfStudy"
    source = "Recorded" if settings.get("data.recorded") is not None else source
    known: dict[str, Any] = {"data.source": source}
    for name, value in settings.items():
        parts = name.split(".")
        old = ".".join(parts[:2])
        if old not in MOVED:
            known[name] = value
            continue
        new, owner = MOVED[old]
        if new != "data.source" and (owner == source or (source, old) == ("Recorded", "data.top_k")):
            known[".".join([new, *parts[2:]])] = value
    return known
