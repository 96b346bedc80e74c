"""What all scripts share: options, the clock, alternation, memory, tables, the JSON file."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def new_parser(module_doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(
        description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures to this file")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, one repeat: does it run, not how fast"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; 1 measures work rather than waiting for busy cores",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Set threads and seed; returns what the figures depend on besides the script."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Versions and the machine."""
    versions = {}
    for name in ("torch", "transformers", "peft", "lightning"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"versions": versions, "device": device, "cores": cores, "threads": torch.get_num_threads()}


def progress(line: str) -> None:
    """One line about what is going on, on stderr, so that stdout holds the tables only."""
    print(f"… {line}", file=sys.stderr, flush=True)


def headline(facts: Mapping[str, Any]) -> None:
    """The line above the tables: versions, device, threads, load."""
    versions = " · ".join(f"{k} {v}" for k, v in facts["versions"].items() if v)
    load = f" · load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{versions} · {facts['device']}, {facts['cores']} cores, {facts['threads']} thread(s){load}\n")


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a `table`."""
    print(table(title, headers, rows), flush=True)


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, columns aligned."""
    cells = [[str(c) for c in headers], *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        "| "
        + " | ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return f"{title}\n\n" + "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def finish(args: argparse.Namespace, figures: dict[str, Any]) -> dict[str, Any]:
    """Write the JSON file if one is wanted."""
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        beside = args.json.with_suffix(args.json.suffix + ".part")
        beside.write_text(json.dumps(figures, indent=1) + "\n")
        beside.replace(args.json)
    return figures


@dataclass(frozen=True)
class Sample:
    """One timing. ``cpu_s`` is what the process's threads worked, which other processes stretch little."""

    wall_s: float
    cpu_s: float


def timed(call: Callable[[], Any], device: str = "cpu") -> Sample:
    """Time one call."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _wait(device)
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int, warm_ups: int = 0, device: str = "cpu"
) -> dict[str, list[Sample]]:
    """Time the calls in turn, A B A B …, so that a slow minute of the machine meets all of them."""
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    for round_ in range(-warm_ups, repeats):
        for name, call in calls.items():
            sample = timed(call, device)
            if round_ >= 0:
                samples[name].append(sample)
            which = "warm-up" if round_ < 0 else f"{round_ + 1}/{repeats}"
            progress(f"{name}: {which}, {sample.wall_s:.2f} s wall, {sample.cpu_s:.2f} s CPU")
    return samples


def median_s(samples: Sequence[Sample], clock: str) -> float:
    """Median seconds on the ``wall`` or the ``cpu`` clock."""
    return statistics.median(getattr(sample, f"{clock}_s") for sample in samples)


def ratio(of: Sequence[Sample], to: Sequence[Sample], clock: str) -> float:
    """Median over the pairs of (seconds of the first) / (seconds of the second)."""
    name = f"{clock}_s"
    return statistics.median(getattr(a, name) / getattr(b, name) for a, b in zip(of, to, strict=True))


def clock_of(device: str) -> str:
    """The clock that rates are taken from: a GPU's work shows on the wall only."""
    return "cpu" if device == "cpu" else "wall"


# [tokens, inner] times [inner, outer], large enough to fill the machine.
_PRODUCTS = {
    "cpu": ((2048, 512, 1536), (2048, 1536, 512), (2048, 2048, 2048)),
    "cuda": ((8192, 4096, 12288), (8192, 12288, 4096), (8192, 8192, 8192)),
}


def matmul_flops(device: str, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Floating-point operations per second of a plain matrix product on this machine, on `clock_of`'s clock: a median.

    The best shape counts, so that it is a ceiling for the layers' own shapes.
    """
    return max(product_flops(device, dtype, *shape, seconds=seconds) for shape in _PRODUCTS[device])


def product_flops(
    device: str, dtype: torch.dtype, tokens: int, inner: int, outer: int, *, seconds: float = 1.0
) -> float:
    """Of [tokens, inner] times [inner, outer], floating-point operations per second."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((tokens, inner), (inner, outer)))
    count = 20 if device == "cuda" else 1
    samples: list[Sample] = []

    def multiply() -> None:
        for _ in range(count):
            a @ b

    until = time.perf_counter() + seconds
    while len(samples) < 3 or (time.perf_counter() < until and len(samples) < 200):
        samples.append(timed(multiply, device))
    return 2 * count * tokens * inner * outer / median_s(samples, clock_of(device))


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or in the process."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("not enough memory" in said or "can't allocate memory" in said)
    )


def free_memory() -> None:
    """Give back what a call that failed still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_bytes(device: str, *, reset: bool = False) -> int:
    """The most memory that this process has held (since the last reset, where the system allows one)."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes() -> int:
    """Of the GPU: what a cache may still take."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def megabytes(count: float) -> str:
    """For tables."""
    return f"{count / 2**20:,.0f}" if count >= 10 * 2**20 else f"{count / 2**20:.1f}"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
