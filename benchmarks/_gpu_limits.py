"""What the card itself can do: matrix products of the model's shapes, copies, launches."""

from __future__ import annotations

import torch

from benchmarks import _common as common
from benchmarks._gpu_part import Part


def measure(part: Part) -> None:
    """The best of the products is what later parts are compared with: a ceiling, as in `matmul_flops`."""
    card = part.card
    shape = card.shape
    seconds = card.pick(0.3, 0.01)
    products = {
        "query, key and value": (shape.width, (shape.heads + 2 * shape.kv_heads) * shape.head_dim),
        "attention's output": (shape.heads * shape.head_dim, shape.width),
        "MLP, up": (shape.width, shape.mlp_width),
        "MLP, down": (shape.mlp_width, shape.width),
        "language head": (shape.width, shape.vocabulary),
    }
    square = card.pick(8192, 128)
    shapes = {
        **{
            f"{name}, {tokens:,} tokens": (tokens, *sides)
            for tokens in card.pick((8192, 2048), (64, 32))
            for name, sides in products.items()
        },
        f"{square:,}³": (square, square, square),
    }
    rates = {}
    for name, sides in shapes.items():
        with part.trying(name):
            rates[name] = common.product_flops(card.device, card.dtype, *sides, seconds=seconds)
            share = rates[name] / card.datasheet_per_s if card.datasheet_per_s else None
            part.row(name, tflop_per_s=rates[name] / 1e12, datasheet_share=share)
    card.products_per_s = max(rates.values(), default=None)
    _copies(part)
    _launches(part)


def _copies(part: Part) -> None:
    size = part.card.pick(4 * 2**30, 2**20)
    source = torch.zeros(size, dtype=torch.uint8, device=part.card.device)
    target = torch.empty_like(source)
    part.race(
        {"a copy, read and written": lambda: target.copy_(source)},
        lambda name, timing: part.row(name, tb_per_s=2 * size / timing.median_s / 1e12),
    )


def _launches(part: Part) -> None:
    number, count = torch.zeros(1, device=part.card.device), part.card.pick(2000, 50)

    def launch() -> None:
        for _ in range(count):
            number.add_(1)

    part.race(
        {"an operation on one number": launch},
        lambda name, timing: part.row(name, launch_us=1e6 * timing.median_s / count),
    )
