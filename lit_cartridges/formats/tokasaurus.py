"""Tokasaurus folders: HazyResearch's tensors beside the settings of the run that trained them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml  # type: ignore[import-untyped]

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError, write_atomically
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.formats.hazyresearch import read_cache, write_cache

_TENSORS, _CONFIG = "cartridge.pt", "config.yaml"
_PAGE_TOKENS = 16


class TokasaurusFormat(CartridgeFormat):
    """``cartridge.pt`` and ``config.yaml``, for the server's ``./cartridges`` folder or the Hub.

    The server keeps whole pages of 16 positions and cuts off what stands over; so only whole pages are written, and any
    number is read.
    """

    name: ClassVar[str] = "tokasaurus"
    looks: ClassVar[str] = f"a folder with {_CONFIG} and {_TENSORS} (or one other .pt)"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
    holds: ClassVar[frozenset[str]] = frozenset({"base_model"})

    def recognises(self, path: Path) -> bool:
        return (path / _CONFIG).is_file() and any(path.glob("*.pt"))

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        file = _tensors_file(path)
        settings = _read_config(path / _CONFIG)
        cartridge = read_cache(file, trust_pickle=trust_pickle)
        said = _setting(settings, "kv_cache_initializer", "max_tokens")
        if said is not None and said != cartridge.num_tokens:
            warnings.warn(
                f"{path / _CONFIG} says {said} positions and {file.name} holds {cartridge.num_tokens}: these are read",
                stacklevel=2,
            )
        name = _setting(settings, "model", "pretrained_model_name_or_path")
        cartridge.provenance = type(cartridge.provenance)(base_model=str(name or ""))
        return cartridge

    def require_holdable(self, cartridge: Cartridge, path: Path, *, drop_bias: bool = False) -> None:
        super().require_holdable(cartridge, path, drop_bias=drop_bias)
        one_shape(cartridge)
        over = cartridge.num_tokens % _PAGE_TOKENS
        if over:
            below, above = cartridge.num_tokens - over, cartridge.num_tokens - over + _PAGE_TOKENS
            raise ValueError(
                f"num_tokens={cartridge.num_tokens} is no multiple of {_PAGE_TOKENS}, and Tokasaurus would cut off the "
                f"last {over} positions; train with num_tokens={f'{below} or ' if below else ''}{above}"
            )
        if not cartridge.provenance.base_model:
            raise ValueError(
                "the cartridge does not name its model, and Tokasaurus would take it for another's; give --base-model"
            )

    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        settings = {
            "kv_cache_initializer": {
                "max_tokens": cartridge.num_tokens,
                "num_frozen_tokens": cartridge.num_frozen_tokens,
            },
            "model": {"pretrained_model_name_or_path": cartridge.provenance.base_model},
        }
        write_cache(cartridge, path / _TENSORS, dtype)
        write_atomically(path / _CONFIG, yaml.safe_dump(settings, sort_keys=False).encode())


def _tensors_file(folder: Path) -> Path:
    """``cartridge.pt``, or the folder's only .pt: the Hub's folders keep the name of the training run's checkpoint."""
    if (folder / _TENSORS).is_file():
        return folder / _TENSORS
    found = sorted(folder.glob("*.pt"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise CartridgeFileError(f"{folder} must hold {_TENSORS} or one other .pt file; found {names}")
    return found[0]


class _PlainLoader(yaml.SafeLoader):
    """Makes nothing but plain data: a tag of Python's, which these files have, counts for nothing."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _untagged)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.load(file.read_bytes(), Loader=_PlainLoader)
    except (OSError, yaml.YAMLError) as error:
        raise CartridgeFileError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise CartridgeFileError(f"{file} holds no settings, but {type(settings).__name__}")
    return settings


def _setting(settings: dict[str, Any], section: str, key: str) -> Any:
    """``section.key``, or ``section.value.key`` as Weights & Biases stores it; None where there is neither."""
    found = settings.get(section)
    while isinstance(found, dict):
        if key in found:
            return found[key]
        found = found.get("value")
    return None
