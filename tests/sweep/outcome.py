"""What becomes of one tiny model that is to read a cartridge: it is exact, refused by name, or a fault of ours."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lit_cartridges.models.readable import UnreadableModelError, require_readable
from tests.sweep.not_built import NOT_BUILT
from tests.sweep.reads_exactly import faults_of, plain_reader
from tests.sweep.tiny_configs import tiny_config
from tests.sweep.tiny_lms import class_of, kind_of, tiny_lm

# A tiny model takes a fraction of a second.
LIMIT_S = 30
KINDS_OF_OUTCOME = ("exact", "refused", "not built", "wrong", "crash", "late")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``outcome`` is one of `KINDS_OF_OUTCOME`; ``reason`` says why in one line, and is empty where all is exact."""

    name: str
    kind: str
    outcome: str
    reason: str = ""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(name: str) -> Outcome:
    """Try the model ``type`` or ``type+variant``."""
    outcome, reason = _tried(name)
    if outcome == "not built":
        reason = NOT_BUILT.get(name.partition("+")[0], reason)
    return Outcome(name=name, kind=kind_of(name), outcome=outcome, reason=reason)


def _tried(name: str) -> tuple[str, str]:
    model_type, _, variant = name.partition("+")
    try:
        with _at_most(LIMIT_S):
            config = tiny_config(model_type, variant)
    except Exception as error:
        return "not built", _line(error)
    try:
        require_readable(config, class_of(config))
    except UnreadableModelError as refusal:
        return "refused", str(refusal)
    except Exception as error:
        return "crash", _line(error)
    try:
        with _at_most(LIMIT_S):
            model = tiny_lm(config)
            plain = plain_reader(model)
    except Exception as error:
        return "not built", _line(error)
    try:
        with _at_most(LIMIT_S):
            faults = faults_of(model, plain)
    except ValueError as error:
        return ("late" if _is_ours(error) else "crash"), _line(error)
    except Exception as error:
        return "crash", _line(error)
    return ("wrong", "; ".join(faults)) if faults else ("exact", "")


def _is_ours(error: Exception) -> bool:
    return "lit_cartridges" in traceback.extract_tb(error.__traceback__)[-1].filename


def _line(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[-1].strip()} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
