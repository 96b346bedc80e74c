"""Hugging Face PEFT ``CARTRIDGE`` adapters."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.description import require_finite
from lit_cartridges.files.content import named, one_line, parse_json, record, whole_number
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.formats.lit_format import LitFormat
from lit_cartridges.formats.trusted_pickle import load_pickle, require_held
from lit_cartridges.runs.atomic_files import write_atomically

_TENSORS, _CONFIG, _PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
_EMBEDDINGS = "prompt_embeddings"
_NUMBERS = ("num_virtual_tokens", "num_frozen_tokens", "num_layers", "num_attention_heads", "token_dim")


class PeftFormat(CartridgeFormat):
    """``prompt_embeddings`` [num_tokens, 2 · layers · kv_heads · head_dim]: key then value of every layer in turn.

    The provenance goes along in the header of the safetensors file, which PEFT ignores and drops when it saves again;
    so a cartridge comes back with it unless PEFT has trained it on.
    """

    name: ClassVar[str] = "peft"
    looks: ClassVar[str] = f"a folder with {_CONFIG} and {_TENSORS} (or {_PICKLE})"
    files: ClassVar[tuple[str, ...]] = ("adapter_model.*", _CONFIG)
    holds: ClassVar[frozenset[str]] = LitFormat.holds

    def recognises(self, path: Path) -> bool:
        return (path / _CONFIG).is_file()

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        config = _read_config(path / _CONFIG)
        if (path / _PICKLE).is_file() and not (path / _TENSORS).is_file():
            file = path / _PICKLE
            content, known = load_pickle(file, trust_pickle=trust_pickle), Provenance()
            tensors = content if isinstance(content, dict) else {}
        else:
            file = path / _TENSORS
            tensors, known = _read_tensors(file)
        if set(tensors) != {_EMBEDDINGS} or not isinstance(tensors[_EMBEDDINGS], Tensor):
            found = f"[{one_line(', '.join(sorted(named(name) for name in tensors)))}]"
            raise CartridgeFileError(
                f"{path} holds {found} where a CARTRIDGE adapter has {_EMBEDDINGS!r} alone"
            )
        require_held([tensors[_EMBEDDINGS]], file)
        base_model = config["base_model_name_or_path"] or known.base_model
        return _unpack(tensors[_EMBEDDINGS], config, replace(known, base_model=base_model), path)

    def require_holdable(self, cartridge: Cartridge, path: Path, *, drop_bias: bool = False) -> None:
        super().require_holdable(cartridge, path, drop_bias=drop_bias)
        one_shape(cartridge)

    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        kv_heads, head_dim = one_shape(cartridge)
        keys, values = cartridge.tensors(dtype=dtype, device="cpu")
        sides = torch.stack([x.detach() for pair in zip(keys, values, strict=True) for x in pair])
        embeddings = sides.permute(2, 0, 1, 3).flatten(
            1
        )  # [2 · layers, kv_heads, tokens, head_dim] → tokens first
        config = {
            "auto_mapping": None,
            "base_model_name_or_path": cartridge.provenance.base_model or None,
            "inference_mode": True,
            "modules_to_save": None,
            "num_attention_heads": kv_heads,
            "num_frozen_tokens": cartridge.num_frozen_tokens,
            "num_layers": cartridge.num_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": cartridge.num_tokens,
            "peft_type": "CARTRIDGE",
            "revision": None,
            "task_type": "CAUSAL_LM",
            "token_dim": kv_heads * head_dim,
        }
        header = {"format": "pt", "cartridge": json.dumps({"provenance": asdict(cartridge.provenance)})}
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / _TENSORS, save({_EMBEDDINGS: embeddings.contiguous()}, metadata=header))
        write_atomically(path / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _read_config(file: Path) -> dict[str, Any]:
    """The settings that are needed, each of its type."""
    try:
        config = parse_json(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"found {named(config)}")
    except (OSError, ValueError) as error:
        raise CartridgeFileError(
            f"{file} is truncated or no adapter's settings: {one_line(error)}"
        ) from error
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise CartridgeFileError(f"{file}: peft_type must be text, found {named(kind)}")
    if kind != "CARTRIDGE":
        raise CartridgeFileError(
            f"{file} is of a {one_line(kind, 60)} adapter; only CARTRIDGE adapters hold a cartridge"
        )
    submodules = config.get("num_transformer_submodules", 1)
    if submodules != 1:
        raise CartridgeFileError(
            f"{file}: num_transformer_submodules={named(submodules)}; a causal LM's has 1"
        )
    base_model = config.get("base_model_name_or_path")
    if base_model is not None and not isinstance(base_model, str):
        raise CartridgeFileError(
            f"{file}: base_model_name_or_path must be text or null, found {named(base_model)}"
        )
    try:
        numbers = {name: whole_number(config[name], name) for name in _NUMBERS}
    except KeyError as error:
        raise CartridgeFileError(f"{file}: a setting is missing or no number: {error}") from error
    except ValueError as error:
        raise CartridgeFileError(f"{file}: {error}") from error
    return {"base_model_name_or_path": base_model, **numbers}


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], Provenance]:
    try:
        with safe_open(file, framework="pt") as content:
            text = (content.metadata() or {}).get("cartridge")
            tensors = {name: content.get_tensor(name) for name in content.keys()}
        if text is None:
            return tensors, Provenance()
        said = parse_json(text)
        if not isinstance(said, dict) or "provenance" not in said:
            raise ValueError("its header has no provenance")
        return tensors, record(Provenance, said["provenance"], "provenance")
    except FileNotFoundError as error:
        raise CartridgeFileError(
            f"{file} is not there; give the folder that PEFT's save_pretrained wrote"
        ) from error
    except Exception as error:  # bytes that are no adapter make the reader raise anything
        raise CartridgeFileError(f"{file} is truncated or not an adapter's: {one_line(error)}") from error


def _unpack(embeddings: Tensor, config: dict[str, Any], known: Provenance, path: Path) -> Cartridge:
    tokens, frozen, layers, kv_heads, width = (config[name] for name in _NUMBERS)
    told = [tokens, 2 * layers * width]
    if list(embeddings.shape) != told or min(tokens, layers, width, kv_heads) < 1 or width % kv_heads:
        raise CartridgeFileError(
            f"{path}: {_EMBEDDINGS} is {list(embeddings.shape)}, and {_CONFIG} says {told}: num_virtual_tokens={tokens}, "
            f"2 · num_layers={layers} · token_dim={width} of num_attention_heads={kv_heads}"
        )
    # [tokens, 2 · layers, kv_heads, head_dim] → [2 · layers, kv_heads, tokens, head_dim]
    sides = embeddings.view(tokens, 2 * layers, kv_heads, width // kv_heads).permute(1, 2, 0, 3)
    try:
        cartridge = Cartridge(list(sides[::2]), list(sides[1::2]), num_frozen_tokens=frozen, provenance=known)
        require_finite(cartridge)
        return cartridge
    except ValueError as error:
        raise CartridgeFileError(f"{path}: {one_line(error)}") from error
