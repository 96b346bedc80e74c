"""Whether a run may go on from a checkpoint with the settings that it has now, and what is said about those that changed.

A checkpoint holds the settings that it was made with (`run_settings`) under ``settings``; `resume_rules` says what becomes of
each. Those of version 0.1 hold none: such a run goes on, and is told what could not be checked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_cartridges.errors import CartridgesError
from lit_cartridges.runs.moved_settings import renamed
from lit_cartridges.runs.resume_rules import MAY_CHANGE, NO_EFFECT, REFUSED, rule_of
from lit_cartridges.runs.run_settings import identity, run_settings

KEY = "settings"
# What a checkpoint is refused for when it is only read, to be validated, say.
_OF_THE_CARTRIDGE = ("model.model", "data.corpus", "model.num_tokens", "model.num_frozen_tokens")
_SHOWN_CHARACTERS = 60
_log = logging.getLogger(__name__)


class ResumeError(CartridgesError, ValueError):
    """The checkpoint was made with settings that must not change; the message names them."""


class Resumption:
    """What a module knows of the settings of its run, and of those of the checkpoint that it goes on from."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._settings: dict[str, Any] = {}
        self._accepted: tuple[dict[str, Any], dict[str, Any]] | None = None

    def begin(self, trainer: Any) -> None:
        """Look at the settings once, when a training begins: a file may be gone when the first checkpoint is saved."""
        self._settings = run_settings(trainer, self._module)

    def settings(self, trainer: Any) -> dict[str, Any]:
        """For a checkpoint: those of the training that began, or of the moment where none has."""
        if not self._settings:
            self.begin(trainer)
        return self._settings

    def accept(self, checkpoint: Mapping[str, Any], trainer: Any) -> None:
        """Let this run go on from a checkpoint, and say so once.

        Raises:
            ResumeError: see `accept`.
        """
        then = settings_then(checkpoint)
        # None: the command line asks before anything begins.
        training = trainer.state.fn in (None, TrainerFn.FITTING)
        now = run_settings(trainer, self._module)
        if not training or (then, now) != self._accepted:
            accept(checkpoint, now, training=training, tells=trainer.is_global_zero)
        self._accepted = (then, now) if training else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, whose tensors are read where they are looked at."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return content


def accept(checkpoint: Mapping[str, Any], now: Mapping[str, Any], *, training: bool, tells: bool) -> None:
    """Let a run with the settings ``now`` go on from a checkpoint, and log what has changed.

    Args:
        training: whether it trains on; otherwise the cartridge alone must fit.
        tells: whether this process logs.

    Raises:
        ResumeError: a setting that must not change has.
    """
    then = settings_then(checkpoint)
    refused: list[str] = []
    told: list[str] = []
    for name in sorted(then.keys() & now.keys(), key=lambda name: (name.count("."), name)):
        rule = rule_of(name)
        left_out = rule.inherits and now[name] is None
        if left_out or same(then[name], now[name]) or any(name.startswith(f"{part}.") for part in refused):
            continue
        verdict = rule.verdict_for(then, now)
        old, new = shown(then[name], now[name])
        if verdict is REFUSED and (training or name in _OF_THE_CARTRIDGE):
            refused.append(name)
        elif training and verdict is MAY_CHANGE:
            told.append(f"resumed with {name}={new} (was {old})")
        elif training and verdict is NO_EFFECT:
            told.append(f"{name}={new} (was {old}) has no effect on a run that goes on")
    if refused:
        raise ResumeError(_refusal(refused, then, now))
    if training and not isinstance(checkpoint.get(KEY), dict) and "cartridge" in checkpoint:
        told.append(
            "the checkpoint is of lit_cartridges 0.1, which did not keep a run's settings: whether others than "
            f"{', '.join(sorted(then))} have changed could not be checked"
        )
    for line in told if tells else ():
        _log.warning("%s", line)


def settings_then(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint was made with; of one of version 0.1 those that its other parts tell."""
    if isinstance(kept := checkpoint.get(KEY), dict):
        return renamed(kept)
    known = dict(checkpoint.get("cartridge", {}))
    if not known:
        return {}
    found = {f"model.{name}": known[name] for name in ("num_tokens", "num_frozen_tokens")}
    found["model.model"] = identity(known["base_model"], known["base_model"])
    found["data.corpus"] = identity(known["corpus_sha256"], "another text")
    for optimizer in checkpoint.get("optimizer_states", ())[:1]:
        group = optimizer["param_groups"][0]
        found["model.betas"] = list(group["betas"])
        if "initial_lr" in group:
            found["model.learning_rate"] = group["initial_lr"]
    return found


def same(then: Any, now: Any) -> bool:
    """Whether two plain values mean the same: an identity by its content, a path wherever it is written from."""
    if isinstance(then, dict) and isinstance(now, dict):
        if "is" in then and "is" in now:
            by_name = then["is"] == then["as"]  # all that was known
            return bool(then["is"] == now["is"] or (by_name and _same_path(then["as"], now["as"])))
        return then.keys() == now.keys() and all(same(then[key], now[key]) for key in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(same, then, now))
    if isinstance(then, str) and isinstance(now, str):
        return then == now or _same_path(then, now)
    return bool(then == now)


def shown(then: Any, now: Any) -> tuple[str, str]:
    """Both for a message, on one line; of long values the place where they begin to differ."""
    old, new = _text(then), _text(now)
    whole = any(isinstance(value, dict) and "is" in value for value in (then, now))
    if whole or max(len(old), len(new)) <= _SHOWN_CHARACTERS:
        return old, new
    first = max(0, len(os.path.commonprefix([old, new])) - 10)

    def part(text: str) -> str:
        end = first + _SHOWN_CHARACTERS
        return ("…" if first else "") + text[first:end] + ("…" if len(text) > end else "")

    return part(old), part(new)


def _text(value: Any) -> str:
    if isinstance(value, dict) and "is" in value:
        known = "" if value["is"] == value["as"] else f" (sha256 {value['is'][:12]})"
        return f"{value['as']!r}{known}"
    return repr(value)


def _same_path(one: str, other: str) -> bool:
    try:
        return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
    except (OSError, ValueError):  # too long, or with a zero byte: no path
        return False


def _refusal(names: list[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    pairs = [(name, *shown(then[name], now[name])) for name in names]
    changes = "; with ".join(f"{name}={old}, and this run has {new}" for name, old, new in pairs)
    recorded = any(name.startswith("data.") or name == "model.model" for name in names)
    return (
        f"the checkpoint was made with {changes}; what must not change in the middle of a run is listed in docs/resume.md. "
        "Give the settings that it was made with, or start anew: another trainer.default_root_dir, or --resume never"
        + (
            " and another data.source.recording, since that holds the conversations of then"
            if recorded
            else ""
        )
    )
