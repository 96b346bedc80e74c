"""Which files of a model's folder hold its weights, in the order in which transformers looks for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cartridges.models.errors import Refused

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER, ADAPTER_PICKLE = "adapter_model.safetensors", "adapter_model.bin"


def safetensors_names(config: Any) -> tuple[str, ...]:
    """Where a model of this config may have its safetensors: the file that it names, or the usual ones."""
    named = getattr(config, "transformers_weights", None)
    return (SINGLE, INDEX) if named is None else (str(named),)


def file_of_tensors(folder: Path, *, names: tuple[str, ...] = (SINGLE, INDEX)) -> dict[str, str]:
    """Tensor's name → name of its file in ``folder``; empty where none of ``names`` is there.

    Raises:
        Refused: an index that is none.
        safetensors.SafetensorError: a file that is truncated or damaged.
    """
    for name in names:
        if not (folder / name).is_file():
            continue
        if name.endswith(".json"):
            content = json.loads((folder / name).read_text())
            known = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(known, dict) or not all(isinstance(file, str) for file in known.values()):
                raise Refused(
                    f"its file {name} has no weight_map from tensors to files; download or save it again"
                )
            if odd := [file for file in known.values() if Path(file).name != file]:
                raise Refused(f"its file {name} names a file outside of the folder: {odd[0]!r}")
            return known
        with opened(folder / name) as tensors:
            return dict.fromkeys(tensors.keys(), name)
    return {}


def tensors_of(folder: Path, file_of: dict[str, str], keys: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors ``keys``, file by file: windows on mapped files, of which nothing is read before it is used."""
    for name, own in groupby(sorted(keys, key=lambda key: (file_of[key], key)), key=file_of.__getitem__):
        with opened(folder / name) as tensors:
            for key in own:
                yield key, tensors.get_tensor(key)


def require_readable_files(folder: Path, *, names: tuple[str, ...] = (SINGLE, INDEX)) -> None:
    """Raise Refused, naming the file, when a safetensors file of ``folder`` is missing, truncated or damaged."""
    name = names[0]
    try:
        for name in sorted(set(file_of_tensors(folder, names=names).values())):
            with opened(folder / name):
                pass
    except FileNotFoundError as error:
        raise Refused(f"its file {name} is missing; download or save it again") from error
    except SafetensorError as error:
        raise Refused(
            f"its file {name} is truncated or damaged ({error}); download or save it again"
        ) from error


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A file of tensors, by `safe_open`'s ``keys()`` and ``get_tensor(key)``; pickles by torch's weights-only loader."""
    if file.suffix == ".bin":
        yield _Pickled(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    else:
        with safe_open(str(file), framework="pt") as tensors:
            yield tensors


class _Pickled:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.keys, self.get_tensor = tensors.keys, tensors.__getitem__
