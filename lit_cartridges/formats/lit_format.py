"""Our own folders, as one format among the others."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.cartridge_files import TENSORS
from lit_cartridges.formats.cartridge_format import CartridgeFormat


class LitFormat(CartridgeFormat):
    """What `Cartridge.save_pretrained` writes; always fp32."""

    name: ClassVar[str] = "lit_cartridges"
    looks: ClassVar[str] = f"a folder with {TENSORS}"
    files: ClassVar[tuple[str, ...]] = (TENSORS,)
    holds: ClassVar[frozenset[str]] = frozenset(field.name for field in fields(Provenance))
    holds_biases: ClassVar[bool] = True

    def recognises(self, path: Path) -> bool:
        return (path / TENSORS).is_file()

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        return Cartridge.from_pretrained(path)

    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        if dtype != torch.float32:
            raise ValueError(
                f"dtype={str(dtype).removeprefix('torch.')}: {self.name} files are always float32; leave it out"
            )
        cartridge.save_pretrained(path)
