"""Ways for packed sequences to attend to one cartridge, forward and backward: merged, a dense mask, a loop.

Ours is `MergedAttention`. The dense mask is one `scaled_dot_product_attention` over the cartridge and all tokens; the
loop is one per sequence, with the cartridge joined in front. All three see exactly the same keys, and their outputs and
gradients are compared before anything is timed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import _common as common
from lit_cartridges.attention import Reading
from lit_cartridges.attention.merged import MergedAttention
from lit_cartridges.attention.parts import PrefixPart

OURS, DENSE, LOOP = "merged (ours)", "dense mask", "loop over sequences"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--num-tokens", type=int, nargs="+", default=[128, 512, 2048], help="cartridge sizes")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs=2, default=[32, 512], metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--heads", type=int, nargs=2, default=[8, 4], metavar=("QUERY", "KEY_VALUE"))
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    if args.quick:
        args.num_tokens, args.sequences = args.num_tokens[:2], min(args.sequences, 4)
    args.repeats = args.repeats or (1 if args.quick else 5)
    facts = common.begin(args)
    common.headline(facts)
    results = [_measure(args, num_tokens) for num_tokens in args.num_tokens]
    clock = common.clock_of(args.device)
    common.print_table(
        f"**Attention of one layer**, forward and backward: {args.sequences} sequences of {args.lengths[0]} to "
        f"{args.lengths[1]} tokens ({results[0]['tokens']:,} in all), {args.heads[0]} query and {args.heads[1]} "
        f"key-value heads of {args.head_dim}, fp32; {clock} milliseconds, median of {args.repeats}.",
        ("cartridge tokens", OURS, DENSE, "× ours", LOOP, "× ours", "dense mask MiB"),
        [
            (
                r["num_tokens"],
                f"{1e3 * r['seconds'][OURS][clock]:.0f}",
                f"{1e3 * r['seconds'][DENSE][clock]:.0f}",
                f"{r['times_ours'][DENSE]:.2f}",
                f"{1e3 * r['seconds'][LOOP][clock]:.0f}",
                f"{r['times_ours'][LOOP]:.2f}",
                common.megabytes(r["mask_bytes"]),
            )
            for r in results
        ],
    )
    return common.finish(args, {**facts, "results": results})


def _measure(args: Any, num_tokens: int) -> dict[str, Any]:
    device = torch.device(args.device)
    lengths = torch.linspace(*args.lengths, args.sequences).round().int().tolist()
    tokens, (heads, kv_heads), dim = sum(lengths), args.heads, args.head_dim
    shapes = [
        (1, heads, tokens, dim),
        *[(1, kv_heads, tokens, dim)] * 2,
        *[(1, kv_heads, num_tokens, dim)] * 2,
    ]
    inputs = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    grad = torch.randn(shapes[0], device=device)
    # A mask and a layout are made once per step and serve all layers, so they are not timed.
    own, prefix = (
        Reading(lengths=tuple(lengths)).begin({}).own_part(inputs[0], inputs[1], None, None),
        PrefixPart(),
    )
    mask = _dense_mask(lengths, num_tokens, device)
    scale, grouped = dim**-0.5, heads != kv_heads

    def ours(query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        return MergedAttention.apply(query, key, value, prefix_key, prefix_value, scale, own, prefix)

    def dense(query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        key, value = torch.cat([prefix_key, key], 2), torch.cat([prefix_value, value], 2)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
        )

    def loop(query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        outs = []
        for q, k, v in zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True):
            k, v = torch.cat([prefix_key, k], 2), torch.cat([prefix_value, v], 2)
            causal = _dense_mask([q.shape[2]], num_tokens, device)
            outs.append(
                scaled_dot_product_attention(q, k, v, attn_mask=causal, scale=scale, enable_gqa=grouped)
            )
        return torch.cat(outs, 2)

    ways = {OURS: ours, DENSE: dense, LOOP: loop}

    def run(way: Any) -> list[Tensor]:
        out = way(*inputs)
        return [out.detach(), *torch.autograd.grad(out, inputs, grad)]

    expected = run(dense)
    differences = {}
    for name, way in ways.items():
        found = run(way)
        differences[name] = max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
    common.progress(
        f"cartridge of {num_tokens}: outputs and gradients agree to {max(differences.values()):.1e}"
    )
    samples = common.alternate(
        {name: (lambda way=way: run(way)) for name, way in ways.items()},
        repeats=args.repeats,
        device=args.device,
    )
    clock = common.clock_of(args.device)
    return {
        "num_tokens": num_tokens,
        "tokens": tokens,
        "largest_difference": differences,
        "seconds": {name: {c: common.median_s(s, c) for c in ("wall", "cpu")} for name, s in samples.items()},
        "times_ours": {name: common.ratio(s, samples[OURS], clock) for name, s in samples.items()},
        "mask_bytes": mask.numel() * mask.element_size(),
    }


def _dense_mask(lengths: list[int], num_tokens: int, device: torch.device) -> Tensor:
    """True where a token may look, [tokens, num_tokens + tokens]."""
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    own = (sequence[:, None] == sequence).tril()
    return torch.cat([own.new_ones(len(own), num_tokens), own], dim=1)


if __name__ == "__main__":
    main()
