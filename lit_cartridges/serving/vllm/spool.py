"""Files by which the server hands cartridges to vLLM's workers: checked, composed, and in the model's dtype.

Of layer N tensor "N", [2, num_tokens, kv_heads, head_dim]: keys and values, so that a worker reads its positions and heads alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_SUFFIX, _LOST = ".safetensors", ".lost"


def spool_file(folder: Path, name: str) -> Path:
    """Of a name."""
    return folder / f"{name}{_SUFFIX}"


def mark_lost(folder: Path, name: str) -> None:
    """A worker cannot read the file."""
    spool_file(folder, name).with_suffix(_LOST).touch()


def is_lost(file: Path) -> bool:
    """Whether a worker could not read it."""
    return file.with_suffix(_LOST).exists()


def write_spooled(file: Path, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """
    Args:
        keys, values: per layer [kv_heads, num_tokens, head_dim].
    """
    layers = enumerate(zip(keys, values, strict=True))
    tensors = {str(layer): torch.stack(pair).transpose(1, 2).contiguous() for layer, pair in layers}
    save_file(tensors, file)


class OpenCartridges:
    """Files that are open, mapped into memory; those that were used longest ago are closed.

    Args:
        max_bytes: of the files that are open; one alone may be larger.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._open: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """Of the open ones, the one that was used longest ago first."""
        return list(self._open)

    def read(self, name: str, layer: int, *, start: int, stop: int, heads: slice) -> tuple[Tensor, Tensor]:
        """Keys and values [stop - start, heads, head_dim] of one layer.

        Raises:
            Exception: of any kind, where there is no such file, or it holds less.
        """
        pair = self._file(name).get_slice(str(layer))[:, start:stop, heads]
        if pair.shape[1:3] != (stop - start, heads.stop - heads.start):
            raise ValueError(
                f"{name} has no positions {start} to {stop} of heads {heads.start} to {heads.stop}"
            )
        return pair[0], pair[1]

    def _file(self, name: str) -> Any:
        if name not in self._open:
            file = spool_file(self.folder, name)
            size = file.stat().st_size
            while self._open and sum(known for _, known in self._open.values()) + size > self.max_bytes:
                self._open.popitem(last=False)
            self._open[name] = safe_open(file, framework="pt"), size
        self._open.move_to_end(name)
        return self._open[name][0]
