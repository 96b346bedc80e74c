"""What a run is made with, by the names of the command line, as plain values that a checkpoint can hold.

Values are resolved, so that only what means something else differs: a corpus is its text's digest, a model's folder that of
its files, an object its class and its options. Whatever has a method ``run_settings`` tells its own: the module with its
data, the callbacks; of the trainer it is read here.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_cartridges.models import resolve
from lit_cartridges.runs.resume_rules import rule_of

# Of a model's folder, what decides how it reads and writes.
_WEIGHTS = ("*.safetensors", "*model*.bin")
_MODEL_FILES = (
    "*config.json",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.*",
    *_WEIGHTS,
)
_SAMPLED_BYTES, _SAMPLES = 1 << 16, 5
_DEPTH = 8  # objects inside objects; deeper ones are told by their class


def run_settings(trainer: Any, module: Any) -> dict[str, Any]:
    """All that is known of a run, dotted name -> plain value; what is told later holds.

    The command line's callback comes first: it knows all settings, as they were typed.
    """
    known: dict[str, Any] = {}
    tellers = [t for t in trainer.callbacks if hasattr(t, "run_settings")]
    tellers.sort(key=lambda teller: not getattr(teller, "knows_the_command_line", False))
    for teller in tellers:
        known |= teller.run_settings()
    known |= _of_trainer(trainer)
    if hasattr(module, "run_settings"):
        known |= module.run_settings()
    root = Path(trainer.default_root_dir)
    for name, usual in (("checkpoint.folder", root), ("data.source.recording", root / "recording")):
        if known.get(name) is not None and os.path.abspath(known[name]) == os.path.abspath(usual):
            known[name] = None  # so that a run's folder may be moved
    return {name: value for name, value in known.items() if rule_of(name).recorded}


def hyper_parameters(
    settings: Mapping[str, Any], *, num_tokens: int, corpus_tokens: int | None
) -> dict[str, Any]:
    """A run's settings as a logger takes them: numbers and texts, a file by its name, what is not set left out.

    Args:
        settings: of `run_settings`, in which no secret is.
        num_tokens: of the cartridge.
        corpus_tokens: the corpus's length, where it is known; ``compression`` is how many times shorter the cartridge is.
    """
    known = {name: _logged(value) for name, value in settings.items() if value is not None}
    if corpus_tokens is not None:
        known |= {"corpus_tokens": corpus_tokens, "compression": corpus_tokens / num_tokens}
    return known


def _logged(value: Any) -> bool | int | float | str:
    if isinstance(value, dict) and "is" in value:
        return str(value["as"])
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def constructed(made: Any, prefix: str, **resolved: Any) -> dict[str, Any]:
    """The settings of an object's constructor under ``prefix``: ``resolved``, or its attribute of the same name."""
    return flat(_attributes(made, _parameters(type(made))) | resolved, prefix)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names; an object stands as its class, and its options under it."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name, value = f"{prefix}.{key}" if prefix else str(key), plain(value)
        if isinstance(value, dict) and "class_path" in value:
            found[name] = class_name(value["class_path"])
            found |= flat({**value.get("init_args", {}), **value.get("dict_kwargs", {})}, name)
        else:
            found[name] = value
    return found


def plain(value: Any, depth: int = 0) -> Any:
    """As JSON knows it; an object as ``class_path`` and ``init_args``, as far as its attributes tell them."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return (
            value.item()
            if value.ndim == 0
            else f"{value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        )
    kind = type(value)
    if depth == _DEPTH or isinstance(value, torch.nn.Module):
        return f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [plain(part, depth + 1) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(part, depth + 1) for part in value), key=repr)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    names = [field.name for field in fields(value)] if is_dataclass(value) else _parameters(kind)
    if not names and kind.__repr__ is not object.__repr__:
        return str(value)  # a dtype, a device, a duration
    options = {name: plain(option, depth + 1) for name, option in _attributes(value, names).items()}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": options}


def identity(digest: str, shown: str) -> dict[str, str]:
    """A value that is known by its content; ``shown`` is what a user has called it."""
    return {"is": digest, "as": shown}


def model_identity(name: str | None) -> dict[str, str] | None:
    """A model on the Hub is its name, a folder its files: the small ones whole, of weights some samples."""
    if name is None:
        return None
    folder = Path(resolve(name))
    if not folder.is_dir():
        return identity(name, name)
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if any(path.match(pattern) for pattern in _WEIGHTS):
                for share in range(_SAMPLES):
                    file.seek(share * max(0, size - _SAMPLED_BYTES) // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLED_BYTES))
            else:
                digest.update(file.read())
    return identity(digest.hexdigest(), name)


def text_identity(corpus: Any) -> dict[str, str] | None:
    """A corpus by its text."""
    return None if corpus is None else identity(corpus.sha256, str(corpus.path))


def files_identity(paths: Sequence[Path], shown: str) -> dict[str, str]:
    """Files by their content, and by their names where there are several, whose order these decide."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(b"" if len(paths) == 1 else path.name.encode() + b"\n")
        digest.update(_file_digest(path, path.stat().st_mtime_ns))
    return identity(digest.hexdigest(), shown)


@cache
def _file_digest(path: Path, changed_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _of_trainer(trainer: Any) -> dict[str, Any]:
    """What the trainer has made of its settings; others are known to the command line alone."""
    same = (
        *("fast_dev_run", "max_steps", "limit_train_batches", "limit_val_batches", "overfit_batches"),
        *("log_every_n_steps", "accumulate_grad_batches", "check_val_every_n_epoch", "num_sanity_val_steps"),
        *("val_check_interval", "default_root_dir", "precision", "num_nodes", "barebones"),
    )
    read: dict[str, Callable[[Any], Any]] = {
        "accelerator": lambda t: type(t.accelerator).__name__,
        "strategy": lambda t: type(t.strategy).__name__,
        "devices": lambda t: t.num_devices,
        "gradient_clip_val": lambda t: t.gradient_clip_val or 0,
        "gradient_clip_algorithm": lambda t: str(getattr(t.gradient_clip_algorithm, "value", None) or "norm"),
        # None until the run begins.
        "max_epochs": lambda t: -1 if t.max_epochs is None else t.max_epochs,
        "min_epochs": lambda t: t.min_epochs or 0,
    }
    known = {name: getattr(trainer, name) for name in same} | {
        name: get(trainer) for name, get in read.items()
    }
    return {f"trainer.{name}": plain(value) for name, value in known.items()}


def _attributes(made: Any, names: Sequence[str]) -> dict[str, Any]:
    """Under their own name, with an underscore in front, or in a dataclass that holds several."""
    inside = [part for part in getattr(made, "__dict__", {}).values() if is_dataclass(part)]
    found = {}
    for name in names:
        for holder, attribute in ((made, name), (made, f"_{name}"), *((part, name) for part in inside)):
            with suppress(Exception):  # a property of somebody's class may raise anything
                found[name] = getattr(holder, attribute)
                break
    return found


def _parameters(kind: type) -> list[str]:
    """Of the constructors of a class and of those that it derives from."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        try:
            signature = inspect.signature(vars(base)["__init__"])
        except (TypeError, ValueError):  # of a class in C
            continue
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names[parameter.name] = None
    return list(names)


def class_name(path: str) -> str:
    """Of this package the bare name, since classes move between its files."""
    return path.rpartition(".")[2] if path.startswith("lit_cartridges.") else path
