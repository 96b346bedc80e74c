"""llama.cpp's state of one sequence: what ``llama_state_seq_load_file`` and a slot's restore read into a context.

The file (llama.cpp's version 3 of it; little-endian): magic, version, the sequence's token ids; then one stream's number of
positions; per position its number, 1 and sequence 0; whether values lie transposed, and the number of layers; per layer the
keys' type, the bytes of a row and the rows [positions, kv_heads · head_dim]; and the same of the values. Transposed ones are
type, bytes of a number, kv_heads · head_dim, and [kv_heads · head_dim, positions].

They lie transposed in a context without flash attention. Flash attention reads a cache in 16 bits, whatever it holds. So
numbers of 16 bits are written for a context with it, which is llama.cpp's own choice, and fp32 for one without, which is exact.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.cartridge_format import CartridgeFormat, one_shape
from lit_cartridges.models import load_config
from lit_cartridges.runs.atomic_files import write_atomically

_MAGIC, _VERSION = 0x67677371, 3  # "ggsq"
_HEADER = struct.Struct("<III")  # magic, version, number of token ids
_GGML_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}

# Architectures that were compared with llama.cpp, and whether it rotates neighbouring numbers of a head, where transformers
# rotates one half against the other: it then has the rows of the query and key weights, and so the keys, in another order.
_NEIGHBOURS = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False}
_ROTATIONS = ("default", "llama3")


class LlamaCppFormat(CartridgeFormat):
    """Read by llama.cpp alone: the file names no model and no heads, so that a cartridge cannot be made of it."""

    name: ClassVar[str] = "llamacpp"
    looks: ClassVar[str] = "a file *.bin of llama.cpp, which is written and not read"
    suffix: ClassVar[str] = ".bin"
    files: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float16

    def recognises(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<I", _MAGIC)

    def read(self, path: Path, *, trust_pickle: bool = False) -> Cartridge:
        raise CartridgeFileError(
            f"{path} is a state of llama.cpp, which says neither its model nor its heads; convert the cartridge that it was "
            "written from"
        )

    def require_holdable(self, cartridge: Cartridge, path: Path, *, drop_bias: bool = False) -> None:
        super().require_holdable(cartridge, path, drop_bias=drop_bias)
        one_shape(cartridge)
        name = cartridge.provenance.base_model
        if not name:
            raise ValueError(
                "the cartridge does not name its model, whose architecture decides the order of the numbers in a key; give "
                "--base_model"
            )
        if why := _inexact(load_config(name, setting="base_model").get_text_config()):
            raise ValueError(f"llama.cpp would not read this cartridge as {name} does: {why}")

    def _write(self, cartridge: Cartridge, path: Path, dtype: torch.dtype) -> None:
        text = load_config(cartridge.provenance.base_model, setting="base_model").get_text_config()
        ids = _placeholders(cartridge, text.vocab_size)
        keys, values = cartridge.tensors(dtype=dtype, device="cpu")
        if _NEIGHBOURS[text.model_type]:
            keys = [_neighbouring(x) for x in keys]
        out = io.BytesIO()
        out.write(_HEADER.pack(_MAGIC, _VERSION, len(ids)) + struct.pack(f"<{len(ids)}i", *ids))
        out.write(struct.pack("<II", 1, cartridge.num_tokens))
        out.write(b"".join(struct.pack("<iIi", place, 1, 0) for place in range(cartridge.num_tokens)))
        transposed, kind = dtype == torch.float32, _GGML_TYPES[dtype]
        out.write(struct.pack("<II", transposed, cartridge.num_layers))
        for place, x in enumerate((*keys, *values)):
            rows = x.detach().transpose(0, 1).flatten(1)  # [tokens, kv_heads · head_dim]
            if transposed and place >= len(keys):
                out.write(struct.pack("<iII", kind, rows.element_size(), rows.shape[1]))
                rows = rows.T
            else:
                out.write(struct.pack("<iQ", kind, rows.shape[1] * rows.element_size()))
            out.write(rows.contiguous().view(torch.uint8).numpy().tobytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, out.getvalue())


def placeholder_ids(file: str | Path) -> list[int]:
    """The token ids that stand for the cartridge in a prompt, one per position.

    They are drawn from the cartridge's digest: a prompt for one cartridge shares no beginning with a slot that holds another.

    Raises:
        CartridgeFileError: no state of llama.cpp of this version.
    """
    with Path(file).open("rb") as content:
        head = content.read(_HEADER.size)
        if len(head) < _HEADER.size or _HEADER.unpack(head)[:2] != (_MAGIC, _VERSION):
            raise CartridgeFileError(f"{file} is no state of llama.cpp of version {_VERSION}")
        count = _HEADER.unpack(head)[2]
        ids = content.read(4 * count)
    if len(ids) < 4 * count:
        raise CartridgeFileError(f"{file} is truncated: it says {count} positions")
    return list(struct.unpack(f"<{count}i", ids))


def restore(llama: Any, file: str | Path) -> list[int]:
    """Put the cartridge into a `llama_cpp.Llama`, in place of what it has read; gives the ids that prompts then begin with.

    Args:
        llama: with a cache of the file's type (``type_k``, ``type_v``; float16 where none is given), and ``flash_attn=True``
            but for float32.

    Raises:
        CartridgeFileError: llama.cpp does not take the file; the reason is on its own log (``verbose=True``).
    """
    import llama_cpp

    ids = placeholder_ids(file)
    tokens, count = (llama_cpp.llama_token * len(ids))(), ctypes.c_size_t()
    llama.reset()
    read = llama_cpp.llama_state_seq_load_file(
        llama.ctx, os.fsencode(file), 0, tokens, len(ids), ctypes.byref(count)
    )
    if not read:
        raise CartridgeFileError(
            f"llama.cpp does not take {file}: its cache has another type or shape, or no room for {len(ids)} positions, or "
            "flash_attn is not as the file needs it: True for 16 bits, False for float32"
        )
    llama.input_ids[: len(ids)] = ids
    llama.n_tokens = len(ids)
    return ids


def _placeholders(cartridge: Cartridge, vocab_size: int) -> list[int]:
    digest = hashlib.sha256()
    for side in cartridge.tensors(device="cpu"):
        for x in side:
            digest.update(x.detach().contiguous().numpy().tobytes())
    # Ids that the GGUF file has, whatever was added to its vocabulary.
    ids = [byte % vocab_size for byte in digest.digest()]
    return (ids * (cartridge.num_tokens // len(ids) + 1))[: cartridge.num_tokens]


def _neighbouring(keys: Tensor) -> Tensor:
    """[kv_heads, tokens, head_dim], with what is rotated together side by side."""
    return keys.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def _inexact(text: Any) -> str | None:
    """Why llama.cpp would compute something else with a model of this config, or None."""
    if text.model_type not in _NEIGHBOURS:
        return (
            f"model_type {text.model_type!r} was not compared; those that were are {', '.join(_NEIGHBOURS)}"
        )
    layers: Sequence[str] = getattr(text, "layer_types", None) or ()
    if getattr(text, "sliding_window", None) or "sliding_attention" in layers:
        return f"its window of {text.sliding_window} tokens is not llama.cpp's, which keeps no position behind one"
    rope = getattr(text, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type", "default")) not in _ROTATIONS:
        return f"rope_type {kind!r} was not compared; those that were are {', '.join(_ROTATIONS)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"partial_rotary_factor={rope['partial_rotary_factor']}: it rotates a part of each head"
    return None
