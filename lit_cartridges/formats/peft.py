"""Hugging Face PEFT ``CARTRIDGE`` adapters."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cartridge_files import CartridgeFileError, write_atomically
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.formats.lit_format import LitFormat
from lit_cartridges.formats.trusted_pickle import load_pickle

_TENSORS, _CONFIG, _PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
_EMBEDDINGS = "prompt_embeddings"


class PeftFormat(CartridgeFormat):
    """``prompt_embeddings`` [num_tokens, 2 · layers · kv_heads · head_dim]: key then value of every layer in turn.

    The provenance goes along in the header of the safetensors file, which PEFT ignores and drops when it saves again;
    so a cartridge comes back with it unless PEFT has trained it on.
    """

    name: ClassVar[str] = "peft"
    looks: ClassVar[str] = f"a folder with {_CONFIG} and {_TENSORS} (or {_PICKLE})"
    holds: ClassVar[frozenset[str]] = LitFormat.holds

    def recognises(self, path: Path) -> bool:
        return (path / _CONFIG).is_file()

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        config = _read_config(path / _CONFIG)
        if (path / _PICKLE).is_file() and not (path / _TENSORS).is_file():
            tensors, known = load_pickle(path / _PICKLE, trust_pickle=trust_pickle), Provenance()
            tensors = tensors if isinstance(tensors, dict) else {}
        else:
            tensors, known = _read_tensors(path / _TENSORS)
        if set(tensors) != {_EMBEDDINGS} or not isinstance(tensors[_EMBEDDINGS], Tensor):
            raise CartridgeFileError(
                f"{path} holds {sorted(tensors) or 'nothing'} where a CARTRIDGE adapter has {_EMBEDDINGS} alone"
            )
        base_model = config.get("base_model_name_or_path") or known.base_model
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
    try:
        config = json.loads(file.read_text())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CartridgeFileError(f"{file} is truncated or no adapter's settings: {error}") from error
    if kind != "CARTRIDGE":
        raise CartridgeFileError(f"{file} is of a {kind} adapter; only CARTRIDGE adapters hold a cartridge")
    if config.get("num_transformer_submodules", 1) != 1:
        raise CartridgeFileError(
            f"{file}: num_transformer_submodules={config['num_transformer_submodules']}; a causal LM's has 1"
        )
    return dict(config)


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], Provenance]:
    try:
        with safe_open(file, framework="pt") as content:
            text = (content.metadata() or {}).get("cartridge")
            tensors = {name: content.get_tensor(name) for name in content.keys()}
        if text is None:
            return tensors, Provenance()
        known = json.loads(text)["provenance"]
        if known.get("fingerprint"):
            known["fingerprint"] = Fingerprint(**known["fingerprint"])
        return tensors, Provenance(**known)
    except FileNotFoundError as error:
        raise CartridgeFileError(
            f"{file} is not there; give the folder that PEFT's save_pretrained wrote"
        ) from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CartridgeFileError(f"{file} is truncated or not an adapter's: {error}") from error


def _unpack(embeddings: Tensor, config: dict[str, Any], known: Provenance, path: Path) -> Cartridge:
    try:
        tokens, frozen, layers, kv_heads, width = (
            int(config[name])
            for name in (
                "num_virtual_tokens",
                "num_frozen_tokens",
                "num_layers",
                "num_attention_heads",
                "token_dim",
            )
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CartridgeFileError(f"{path / _CONFIG}: a setting is missing or no number: {error}") from error
    told = [tokens, 2 * layers * width]
    if list(embeddings.shape) != told or kv_heads < 1 or width % kv_heads:
        raise CartridgeFileError(
            f"{path}: {_EMBEDDINGS} is {list(embeddings.shape)}, and {_CONFIG} says {told}: num_virtual_tokens={tokens}, "
            f"2 · num_layers={layers} · token_dim={width} of num_attention_heads={kv_heads}"
        )
    # [tokens, 2 · layers, kv_heads, head_dim] → [2 · layers, kv_heads, tokens, head_dim]
    sides = embeddings.view(tokens, 2 * layers, kv_heads, width // kv_heads).permute(1, 2, 0, 3)
    try:
        return Cartridge(list(sides[::2]), list(sides[1::2]), num_frozen_tokens=frozen, provenance=known)
    except ValueError as error:
        raise CartridgeFileError(f"{path}: {error}") from error
