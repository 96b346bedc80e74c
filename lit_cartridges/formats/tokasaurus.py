"""Tokasaurus folders: HazyResearch's tensors beside the settings of the run that trained them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml  # type: ignore[import-untyped]

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.files.content import is_text, named, one_line, whole_number
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.formats.hazyresearch import read_cache, write_cache
from lit_cartridges.runs.atomic_files import write_atomically

_TENSORS, _CONFIG = "cartridge.pt", "config.yaml"
_PAGE_TOKENS = 16
_MOST_CONFIG_BYTES, _MOST_VALUES = 2**20, 8


class TokasaurusFormat(CartridgeFormat):
    """``cartridge.pt`` and ``config.yaml``, for the server's ``./cartridges`` folder or the Hub.

    The server keeps whole pages of 16 positions and cuts off what stands over; so only whole pages are written, and any
    number is read.
    """

    name: ClassVar[str] = "tokasaurus"
    looks: ClassVar[str] = f"a folder with {_CONFIG} and {_TENSORS} (or one other .pt)"
    files: ClassVar[tuple[str, ...]] = (_CONFIG, "*.pt")
    dtype: ClassVar[torch.dtype] = torch.bfloat16
    holds: ClassVar[frozenset[str]] = frozenset({"base_model"})

    def recognises(self, path: Path) -> bool:
        return (path / _CONFIG).is_file() and any(path.glob("*.pt"))

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        file = _tensors_file(path)
        said, name = _read_config(path / _CONFIG)
        cartridge = read_cache(file, trust_pickle=trust_pickle)
        if said is not None and said != cartridge.num_tokens:
            warnings.warn(
                f"{path / _CONFIG} says {said} positions and {file.name} holds {cartridge.num_tokens}: these are read",
                stacklevel=2,
            )
        cartridge.provenance = type(cartridge.provenance)(base_model=name)
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
                "the cartridge does not name its model, and Tokasaurus would take it for another's; give --base_model"
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

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Without merge keys: a few lines of them can be made to say billions."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a merge key (<<) is not read", node.start_mark
            )
        super().flatten_mapping(node)


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _untagged)


def _read_config(file: Path) -> tuple[int | None, str]:
    """How many positions it says, if it does, and the model's name, "" where there is none."""
    try:
        if (size := file.stat().st_size) > _MOST_CONFIG_BYTES:
            raise ValueError(
                f"it has {size:,} bytes; the settings of a run have at most {_MOST_CONFIG_BYTES:,}"
            )
        settings = yaml.load(file.read_bytes(), Loader=_PlainLoader)
        if not isinstance(settings, dict):
            raise ValueError(f"it holds no settings, but {type(settings).__name__}")
        said = _setting(settings, "kv_cache_initializer", "max_tokens")
        name = _setting(settings, "model", "pretrained_model_name_or_path")
        if not (name is None or is_text(name)):
            raise ValueError(f"model.pretrained_model_name_or_path must be text, found {named(name)}")
        if said is not None:
            whole_number(said, "kv_cache_initializer.max_tokens")
        return said, name or ""
    except Exception as error:  # YAML's dates, numbers and nesting raise what they like
        raise CartridgeFileError(f"{file} cannot be read: {one_line(error)}") from error


def _setting(settings: dict[str, Any], section: str, key: str) -> Any:
    """``section.key``, or ``section.value.key`` as Weights & Biases stores it; None where there is neither."""
    found = settings.get(section)
    for _ in range(_MOST_VALUES):  # an anchor may make a section its own value
        if not isinstance(found, dict):
            return None
        if key in found:
            return found[key]
        found = found.get("value")
    raise ValueError(f"{section} holds itself, or value: within value: without end")
