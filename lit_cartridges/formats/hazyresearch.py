"""HazyResearch's ``cache*.pt``: a pickled dict of parameter lists."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.description import require_finite
from lit_cartridges.files.content import named, one_line
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.formats.trusted_pickle import load_pickle, require_held
from lit_cartridges.runs.atomic_files import write_atomically

_SIDES = ("keys", "values")
_FROZEN = ("frozen", "fixed")  # the newer and the older spelling


class HazyResearchFormat(CartridgeFormat):
    """``trainable_keys``, ``trainable_values`` and the frozen pair, one tensor [1, kv_heads, tokens, head_dim] per layer.

    The frozen pair is called ``frozen_*`` by the newer of their releases and ``fixed_*`` by the older; what we write
    has both names for the same tensors, which costs no byte and reads everywhere. Without frozen tokens they write
    empty lists, and their own loaders fail on those; we write one tensor of no positions per layer.
    """

    name: ClassVar[str] = "hazyresearch"
    looks: ClassVar[str] = "a file cache*.pt"
    files: ClassVar[tuple[str, ...]] = ("*.pt",)
    suffix: ClassVar[str] = ".pt"
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix in (".pt", ".torch")

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        return read_cache(path, trust_pickle=trust_pickle)

    def require_holdable(self, cartridge: Cartridge, path: Path, *, drop_bias: bool = False) -> None:
        super().require_holdable(cartridge, path, drop_bias=drop_bias)
        one_shape(cartridge)

    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        write_cache(cartridge, path, dtype)


def read_cache(file: Path, *, trust_pickle: bool) -> Cartridge:
    """The cartridge in ``file``.

    The frozen tokens are counted along the position axis; one of their loaders takes the head axis for it.

    Raises:
        CartridgeFileError: see `load_pickle`; or no cartridge in it.
    """
    content = load_pickle(file, trust_pickle=trust_pickle)
    if not isinstance(content, dict):
        raise CartridgeFileError(f"{file} holds a {type(content).__name__}, not a dict of keys and values")
    spelling = next((word for word in _FROZEN if f"{word}_keys" in content), _FROZEN[0])
    names = [f"{part}_{side}" for part in (spelling, "trainable") for side in _SIDES]
    if missing := [name for name in names if name not in content]:
        raise CartridgeFileError(
            f"{file} is no cartridge: {', '.join(missing)} missing, found {one_line([named(key) for key in content])}"
        )
    frozen_keys, frozen_values, keys, values = (_layers(content[name], name, file) for name in names)
    require_held((*frozen_keys, *frozen_values, *keys, *values), file)
    for frozen, trained, side in ((frozen_keys, keys, "keys"), (frozen_values, values, "values")):
        if frozen and len(frozen) != len(trained):
            raise CartridgeFileError(
                f"{file}: {len(frozen)} layers of {spelling}_{side} and {len(trained)} of trainable_{side}"
            )
    counts = {x.shape[1] for x in (*frozen_keys, *frozen_values)} or {0}
    if len(counts) != 1 or bool(frozen_keys) != bool(frozen_values):
        raise CartridgeFileError(f"{file}: layers have different numbers of frozen tokens, {sorted(counts)}")
    try:
        joined = [
            [torch.cat(pair, dim=1) for pair in zip(frozen, trained, strict=True)] if frozen else trained
            for frozen, trained in ((frozen_keys, keys), (frozen_values, values))
        ]
        cartridge = Cartridge(*joined, num_frozen_tokens=counts.pop())
        require_finite(cartridge)
        return cartridge
    except (RuntimeError, ValueError) as error:
        raise CartridgeFileError(f"{file} is no cartridge: {one_line(error)}") from error


def write_cache(cartridge: Cartridge, file: Path, dtype: torch.dtype) -> None:
    """Write the dict to ``file``."""
    cut = cartridge.num_frozen_tokens
    content: dict[str, nn.ParameterList] = {}
    for side, tensors in zip(_SIDES, cartridge.tensors(dtype=dtype, device="cpu"), strict=True):
        rows = [x.detach()[None] for x in tensors]
        content[f"trainable_{side}"] = _parameters([x[:, :, cut:] for x in rows], trained=True)
        frozen = _parameters([x[:, :, :cut] for x in rows], trained=False)
        content |= {f"{word}_{side}": frozen for word in _FROZEN}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, buffer.getvalue())


def _layers(value: Any, name: str, file: Path) -> list[Tensor]:
    """Per layer [kv_heads, tokens, head_dim]."""
    try:
        layers = list(value)
    except Exception as error:  # a ParameterList out of a pickle may lack all that its own methods need
        raise CartridgeFileError(f"{file}: {name} is no list of tensors: {one_line(error)}") from error
    for x in layers:
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[0] != 1:
            found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise CartridgeFileError(
                f"{file}: {name} must hold tensors [1, kv_heads, tokens, head_dim], found {found}"
            )
    return [x.detach()[0] for x in layers]


def _parameters(tensors: list[Tensor], *, trained: bool) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(x.contiguous().clone(), requires_grad=trained) for x in tensors)
