"""Where the Triton kernels run; that they agree with the plain path under Triton's interpreter; that they compile for cards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lit_cartridges.cascade import triton_attention
from lit_cartridges.cascade.triton_attention import suits, tiles_of, triton_kernels

INTERPRETED = Path(__file__).with_name("interpreted_kernels.py")
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install --no-deps triton"
)
# Shared memory that one program may have, from NVIDIA's tables of compute capabilities.
SHARED_BYTES = {80: 166_912, 86: 101_376, 90: 232_448}
# Every card with every operand, and with every kind of call.
_OPERANDS = [("bf16", 64), ("bf16", 128), ("fp16", 256), ("fp32", 128)]
_CALLS = [(False, 1), (False, 4096), (True, 1), (True, 4096)]
COMPILED = [
    (capability, *operands, *_CALLS[(i + j) % 4])
    for i, capability in enumerate(SHARED_BYTES)
    for j, operands in enumerate(_OPERANDS)
]
POINTERS = {
    "lse": "fp32",
    "weights": "fp32",
    "sums": "fp32",
    "sinks": "fp32",
    "positions": "i64",
    "places": "i32",
}


@needs_triton
@pytest.mark.parametrize("part", ["not slow", pytest.param("slow", marks=pytest.mark.thorough)])
def test_the_kernels_agree_with_the_plain_path(part):
    """In a process of its own, since Triton decides at its import whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", part, str(INTERPRETED)]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


def given(*, q=8, m=20, dim=64, dtype=torch.bfloat16, rows=1, heads=4):
    query = torch.zeros(rows, heads, q, dim, dtype=dtype)
    key, value = (torch.zeros(rows, 2, m, dim, dtype=dtype) for _ in range(2))
    return query, key, value


@pytest.fixture
def everywhere(monkeypatch):
    """As if Triton were there and compiled for the CPU."""
    monkeypatch.setattr(triton_attention, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(triton_attention, "_has_triton", lambda: True)


def test_the_plain_path_runs_on_the_cpu():
    assert not suits(*given())


def test_the_plain_path_runs_without_triton(everywhere, monkeypatch):
    assert suits(*given())
    monkeypatch.setattr(triton_attention, "_has_triton", lambda: False)
    assert not suits(*given())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [1, 80, 256])
def test_what_suits(everywhere, dtype, dim):
    assert suits(*given(dtype=dtype, dim=dim))


def test_what_does_not_suit(everywhere):
    query, key, value = given()
    assert not suits(*given(dtype=torch.float64))
    assert not suits(*given(dim=257))
    assert not suits(query, key.float(), value)
    assert not suits(query, key, value.float())
    assert not suits(*(x.to("meta").expand(2**14, -1, -1, -1) for x in given()))
    far = torch.empty(1, 4, 2**10, 64, dtype=torch.bfloat16, device="meta")
    assert not suits(far.as_strided(far.shape, (64, 64, 2**21, 1)), key, value)


def test_the_plain_path_runs_where_a_gradient_is_asked_for(everywhere):
    query, key, value = given()
    query.requires_grad_(True)
    assert not suits(query, key, value)
    with torch.no_grad():
        assert suits(query, key, value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 192, 256])
@pytest.mark.parametrize("q", [1, 20, 4096])
@pytest.mark.parametrize("shared_bytes", SHARED_BYTES.values())
def test_tiles_fit_into_shared_memory(monkeypatch, dtype, dim, q, shared_bytes):
    monkeypatch.setattr(triton_attention, "_shared_bytes", lambda _: shared_bytes - 4096)
    query, _, value = given(q=q, dim=dim, dtype=dtype)
    tiles = tiles_of(query, value)
    assert tiles.queries >= 16 and tiles.keys >= 16
    padded = 1 << (dim - 1).bit_length()
    assert tiles.shared_bytes(padded, padded, query.element_size()) < shared_bytes
    assert q == 4096 or tiles.queries == max(16, 1 << (q - 1).bit_length())


@needs_triton
@pytest.mark.thorough
@pytest.mark.parametrize(("capability", "dtype", "dim", "everything", "q"), COMPILED)
def test_they_compile_for_cards(monkeypatch, tmp_path, capability, dtype, dim, everything, q):
    """To machine code, without a card; within its shared memory, 16-bit products on its tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shared_bytes = SHARED_BYTES[capability]
    monkeypatch.setattr(triton_attention, "_shared_bytes", lambda _: shared_bytes - 4096)
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    query, _, value = given(q=q, dim=dim, dtype=torch_dtype)
    options = tiles_of(query, value).options()
    constants = {**options, "D": dim, "V": dim, "BLOCK_D": dim, "BLOCK_V": dim}
    if not everything:
        constants |= dict.fromkeys(("places", "window", "softcap", "sinks"))
    if q == 1:  # Triton compiles a 1 in, and here others too that a call may have
        constants |= {"q": 1, "group": 1}
    for kernel in (triton_kernels().attention_kernel, triton_kernels().sums_kernel):
        names, types, aligned = kernel.arg_names, {}, {}
        for i, name in enumerate(names):
            if name in constants:
                types[name] = "constexpr"
            elif name in ("query", "key", "value", "out") or name in POINTERS:
                types[name] = f"*{POINTERS.get(name, dtype)}"
            else:
                types[name] = "fp32" if name in ("scale", "softcap") else "i32"
            if types[name].startswith("*") or re.fullmatch("[qkv]_(row|head|step)", name):
                aligned[(i,)] = [["tt.divisibility", 16]]
        known = {(i,): constants[name] for i, name in enumerate(names) if name in constants}
        compiled = triton.compile(
            ASTSource(fn=kernel, signature=types, constexprs=known, attrs=aligned),
            target=GPUTarget("cuda", capability, 32),
            options={key: options[key] for key in ("num_warps", "num_stages")},
        )
        assert compiled.asm["cubin"] and compiled.metadata.shared <= shared_bytes
        products = "wgmma" if capability == 90 and q > 1 else "mma.sync"
        assert (products in compiled.asm["ptx"]) == (dtype != "fp32")
