"""What every format shares: a way in, a way out, and an account of what does not go along."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.cartridge_files.description import require_finite

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CartridgeFormat(ABC):
    """A system's cartridge files. A subclass recognises, reads and writes them; the base says what gets lost.

    Attributes:
        name: as on the command line.
        looks: by which files it is told, for error messages and help.
        files: patterns of their names, for downloads from the Hub.
        suffix: how the name of its one file ends; empty for a folder.
        dtype: what the system itself writes, and what is written unless another dtype is asked for.
        holds: the fields of `Provenance` that have a place in the files.
        holds_biases: whether a per-key bias has a place in them.
        reads: whether a cartridge can be made of the files.
    """

    name: ClassVar[str]
    looks: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str] = ""
    dtype: ClassVar[torch.dtype] = torch.float32
    holds: ClassVar[frozenset[str]] = frozenset()
    holds_biases: ClassVar[bool] = False
    reads: ClassVar[bool] = True

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like this format, by names and first bytes alone."""

    @abstractmethod
    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        """The cartridge at ``path``.

        Args:
            trust_pickle: allow a pickle to be read, with the few classes that the format needs.

        Raises:
            CartridgeFileError: truncated, of another kind, or a pickle that is not trusted or not to be trusted; or a
                format that is written alone.
        """

    def write(
        self,
        cartridge: Cartridge,
        path: Path,
        *,
        dtype: torch.dtype | None = None,
        drop_bias: bool = False,
    ) -> None:
        """Write ``cartridge`` to ``path``; each file replaces the old one at once, or not at all.

        Warns (`UserWarning`) of everything that the files cannot hold: rounding, provenance, a bias that is dropped.

        Args:
            dtype: of the tensors written; None for the format's own.
            drop_bias: leave a per-key bias out instead of refusing.

        Raises:
            ValueError: the format cannot hold this cartridge; the message names what would work.
            NotFiniteError: a value is NaN or infinite, or would be in ``dtype``.
        """
        self.require_holdable(cartridge, path, drop_bias=drop_bias)
        dtype = dtype or self.dtype
        require_finite(cartridge, dtype)
        for loss in self._losses(cartridge, dtype):
            warnings.warn(f"{self.name} files hold {loss}", stacklevel=2)
        self._write(cartridge, path, dtype)

    @abstractmethod
    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        """Write the files; what can be refused has been."""

    def require_holdable(self, cartridge: Cartridge, path: Path, *, drop_bias: bool = False) -> None:
        """Raise ValueError when the files cannot hold this cartridge, before anything is written."""
        if path.suffix != (self.suffix or path.suffix):
            raise ValueError(
                f"{path}: {self.name} writes one file; give its name, such as cartridge{self.suffix}"
            )
        if cartridge.biases() is not None and not (self.holds_biases or drop_bias):
            raise ValueError(
                f"the cartridge has a per-key bias, for which {self.name} files have no place; fit it without "
                "bias, or drop the bias (--drop_bias), which changes what the model reads"
            )

    def _losses(self, cartridge: Cartridge, dtype: torch.dtype) -> list[str]:
        """What does not go along, each ending the sentence "NAME files hold …"."""
        blank = Provenance()
        dropped = [
            field.name
            for field in fields(Provenance)
            if field.name not in self.holds
            and getattr(cartridge.provenance, field.name) != getattr(blank, field.name)
        ]
        losses = [f"no {', '.join(dropped)}: left out"] if dropped else []
        if cartridge.biases() is not None and not self.holds_biases:
            losses.append("no per-key bias: dropped, the model reads another cartridge now")
        keys, values = cartridge.tensors()
        if any(not torch.equal(x.to(dtype).float(), x) for x in (*keys, *values)):
            losses.append(f"{str(dtype).removeprefix('torch.')} here: keys and values were rounded to it")
        return losses


def one_shape(cartridge: Cartridge) -> tuple[int, int]:
    """(kv_heads, head_dim), the same in every layer.

    Raises:
        ValueError: layers differ, which no other system's file can say.
    """
    shapes = sorted({(x.shape[0], x.shape[2]) for side in cartridge.tensors() for x in side})
    if len(shapes) != 1:
        raise ValueError(f"layers of different (kv_heads, head_dim), {shapes}, fit no other system's files")
    return shapes[0]
