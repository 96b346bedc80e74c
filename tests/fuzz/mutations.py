"""Ways to spoil a file: bytes, values of JSON and YAML, headers of safetensors, archives and columns rebuilt around a lie."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_cartridges.cartridge_files.description import sha256_of

# What a value is swapped for. The last ones cannot be said in Python and are put in as text.
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 1.5, 1e308, -1e-320, 2**31, 2**63, 10**30),
    *(float("nan"), float("inf"), -float("inf")),
    *("", "x", "\ud800", "\x1b[2J", "../../etc/passwd", "a\nb", "9" * 5000, "long" * 5000),
    *([], {}, [[]], [None], {"": {}}, {"a": float("nan")}, ["x"] * 50, list(range(50))),
)
_RAW = ("[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "9" * 5_000, "1e999", '"\\ud800"', "-", "[1,")
_MARK = "\u0001raw\u0001"


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flips, cuts, splices and garbage, anywhere."""
    if not content:
        return b"\0"
    how = draw.choice(["flip"] * 6 + ["cut", "drop", "repeat", "splice", "zero", "garbage", "append"])
    start = draw.randrange(len(content))
    stop = min(len(content), start + draw.choice([1, 2, 4, 8, 64, 1024]))
    spoilt = bytearray(content)
    if how == "flip":
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del spoilt[start:]
    elif how == "drop":
        del spoilt[start:stop]
    elif how == "repeat":
        spoilt[stop:stop] = spoilt[start:stop] * draw.choice([1, 1, 50])
    elif how == "splice":
        place = draw.randrange(len(content))
        spoilt[start:stop] = content[place : place + stop - start]
    elif how == "zero":
        spoilt[start:stop] = bytes(stop - start)
    elif how == "garbage":
        spoilt[start:stop] = draw.randbytes(stop - start)
    else:
        spoilt += draw.randbytes(draw.randrange(1, 64))
    return bytes(spoilt)


def spoil_json(content: bytes, draw: random.Random) -> bytes:
    """One value or name of a JSON document is another."""
    return _dumped(_swapped(json.loads(content), draw), draw)


def spoil_json_line(content: bytes, draw: random.Random) -> bytes:
    """The same, in one line of many."""
    lines = content.splitlines()
    number = draw.randrange(len(lines))
    lines[number] = spoil_json(lines[number], draw)
    return b"\n".join(lines)


def spoil_yaml(content: bytes, draw: random.Random) -> bytes:
    """A scalar becomes an anchor's loop, a tag, a bomb or a plain oddity."""
    lines = content.decode().splitlines()
    number = draw.randrange(len(lines))
    name = lines[number].partition(":")[0]
    bomb = "".join(
        f"{a}: &{a} [{', '.join(['*' + b] * 9)}]\n" for a, b in zip("bcdefghij", "abcdefghi", strict=True)
    )
    odd = [
        *(
            "*a",
            "&a [*a]",
            "&a {value: *a}",
            "!!python/object/apply:os.system [true]",
            "!!binary x",
            "2001-99-99",
        ),
        *(
            ".nan",
            "-.inf",
            "9" * 5000,
            "0o9",
            "[" * 3000,
            "{" * 3000,
            '"\\uD800"',
            "!!timestamp x",
            "1:99:99",
            "~",
            "|",
            "x: y",
        ),
        *(
            "!!python/tuple [1]",
            "!!set {a}",
            "!!int x",
            "!!float x",
            "? [a]",
            "{? [a] : b}",
            "!!omap [a]",
            "<<: [1]",
        ),
    ]
    how = draw.choice(odd)
    if draw.random() < 0.2:
        return (
            f"a: &a [x]\n{bomb}" + "\n".join([*lines[:number], f"{name}: *j", *lines[number + 1 :]])
        ).encode()
    if draw.random() < 0.1:
        merges = "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}\n" for i in range(1, 40))
        return ("m0: &m0 {k: 1}\n" + merges + "\n".join(lines)).encode()
    lines[number] = f"{name}: {how}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def spoil_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors header with another value, or with another value in the description inside."""
    header, data = _safetensors(content)
    if draw.random() < 0.5 and "__metadata__" in header:
        name = draw.choice(sorted(header["__metadata__"]))
        told = header["__metadata__"][name]
        try:
            header["__metadata__"][name] = _dumped(_swapped(json.loads(told), draw), draw).decode()
        except ValueError:
            header["__metadata__"][name] = draw.choice(["", "{", "null"])
        return _from_safetensors(json.dumps(header).encode(), data)
    return _from_safetensors(_dumped(_swapped(header, draw), draw), data)


def spoil_sealed(content: bytes, draw: random.Random) -> bytes:
    """A cartridge's description with another value and the checksum of that, so that the values themselves are judged."""
    header, data = _safetensors(content)
    known = _swapped(json.loads(header["__metadata__"]["cartridge"]), draw)
    try:
        known["sha256"] = sha256_of(known)
    except (TypeError, ValueError, KeyError):
        pass
    header["__metadata__"]["cartridge"] = _dumped(known, draw).decode()
    return _from_safetensors(json.dumps(header).encode(), data)


def spoil_archive(content: bytes, draw: random.Random) -> bytes:
    """A zip archive whose checksums are right and one part of which is spoilt, packed, twice there or gone."""
    source, out = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    chosen, how = draw.choice(source.namelist()), draw.choice(["bytes"] * 5 + ["packed", "twice", "gone"])
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            part = source.read(name)
            if name == chosen and how == "gone":
                continue
            target.writestr(name, spoil_bytes(part, draw) if name == chosen and how == "bytes" else part)
            if name == chosen and how == "twice":
                target.writestr(name + "x", part)
    return out.getvalue()


def spoil_columns(content: bytes, draw: random.Random) -> bytes:
    """A Parquet file, whole and without any sha256, one value of which is another."""
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    for _ in range(20):
        try:
            table = pa.Table.from_pylist(_swapped(json.loads(json.dumps(rows)), draw))
            out = io.BytesIO()
            pq.write_table(table, out)
            return out.getvalue()
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            continue  # Arrow has no type for it
    return content


Spoil = Callable[[bytes, random.Random], bytes]


def _swapped(value: Any, draw: random.Random) -> Any:
    """``value`` with one entry, at any depth, swapped, renamed, dropped or doubled."""
    inner = value
    while isinstance(inner, (dict, list)) and inner:
        key = draw.choice(sorted(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
        child = inner[key]
        if isinstance(child, (dict, list)) and child and draw.random() < 0.75:
            inner = child
            continue
        how = draw.random()
        if how < 0.1:
            del inner[key]
        elif how < 0.2 and isinstance(inner, dict):
            inner[f"{key}x"] = inner.pop(key)
        elif how < 0.2:
            inner.append(child)
        elif how < 0.3 and isinstance(child, int):
            inner[key] = child + draw.choice([-1, 1])
        else:
            inner[key] = draw.choice([*_VALUES, _MARK, _MARK])
        return value
    return draw.choice(_VALUES)


def _dumped(value: Any, draw: random.Random) -> bytes:
    return json.dumps(value).replace(json.dumps(_MARK), draw.choice(_RAW)).encode()


def _safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _from_safetensors(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data
