"""Where a cascade gains on StreamingLLM of the same size, and where it loses: by how far back a word was last read.

Every scored token is put by the distance to the last occurrence of the same token (of the same run of tokens, with
``--ngram``): in the newest sub-cache, behind it in StreamingLLM's window (of which the cascade kept a part), behind that in the
cascade's reach, beyond it, or never. Only tokens behind the first full cache and one stride count. Of each group: its share of
all tokens, StreamingLLM's nats, the cascade's nats above these, and what that adds to the difference over all tokens, with the
standard error over documents. The last column sums to the whole difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import _common as common
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.streaming import streamed_documents
from lit_cartridges.evals.systems import CASCADE, STREAMING_LLM, Sizes, StreamedKind, chosen
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.corpus import WorldCorpus

POCKET = "package:lit_cartridges.pocket/model"
SYSTEMS = (CASCADE, STREAMING_LLM)
GROUPS = (
    "in the newest sub-cache",
    "in StreamingLLM's window",
    "in the cascade's reach",
    "beyond it",
    "never",
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", default=POCKET)
    parser.add_argument(
        "--corpora", nargs="*", default=[], metavar="PATH", help="texts; held-out worlds by default"
    )
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--positions", type=int, help="behind the sinks; 256 by default")
    parser.add_argument("--stride-tokens", type=int, help="256 by default")
    parser.add_argument("--tokens", type=int, help="of each document; 8192 by default")
    parser.add_argument("--documents", type=int, help="worlds; 4 by default")
    parser.add_argument("--ngram", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--folder", type=Path, help="keep log-probabilities here, and take those that are there"
    )
    args = parser.parse_args(argv)
    args.positions = args.positions or (32 if args.quick else 256)
    args.stride_tokens = args.stride_tokens or (16 if args.quick else 256)
    args.tokens = args.tokens or (256 if args.quick else 8192)
    facts = common.begin(args)
    common.headline(facts)
    options = CascadeOptions(total_tokens=args.positions + 4, stride_tokens=args.stride_tokens)
    corpora: list[Any] = args.corpora or [
        WorldCorpus(seed=901 + i, num_tokens=args.tokens + 32) for i in range(args.documents or 4)
    ]
    documents = streamed_documents(corpora, load_tokenizer(args.model), num_tokens=args.tokens, plain=True)
    documents = [(name, ids) for name, ids in documents if len(ids) == args.tokens]
    found = _logprobs(args, options, documents)
    results = [_grouped(args, options, documents, found, n) for n in args.ngram]
    for result in results:
        _print(args, result)
    return common.finish(args, {**facts, "results": results})


def _logprobs(
    args: Any, options: CascadeOptions, documents: list[tuple[str, list[int]]]
) -> list[NDArray[Any]]:
    """Of each document [systems, tokens - 1]."""
    model: Any = None
    found = []
    for number, (name, ids) in enumerate(documents):
        rows = []
        for system in SYSTEMS:
            place = args.folder and args.folder / f"{system}_{args.positions}_{number}_{len(ids)}.npy"
            if place is None or not place.exists():
                model = model or load_model(args.model, dtype=args.dtype, device=args.device)
                [kind] = chosen([system], StreamedKind)
                read = kind.logprobs(model, torch.tensor([ids], device=args.device), Sizes(cascade=options))
                row = read[0].float().cpu().numpy()
                common.progress(f"{name}, {system}: {-row.mean():.4f} nats")
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    np.save(place, row)
            else:
                row = np.load(place)
            rows.append(row.astype(float))
        found.append(np.stack(rows))
    return found


def distances(ids: list[int], n: int) -> NDArray[np.int64]:
    """Of each token but the first: how far back the same ``n`` tokens, it the last of them, ended last; 0 for never."""
    last: dict[tuple[int, ...], int] = {}
    back = np.zeros(len(ids), dtype=np.int64)
    for place in range(n - 1, len(ids)):
        key = tuple(ids[place - n + 1 : place + 1])
        back[place] = place - last.get(key, place)
        last[key] = place
    return back[1:]


def _grouped(
    args: Any,
    options: CascadeOptions,
    documents: list[tuple[str, list[int]]],
    found: list[NDArray[Any]],
    n: int,
) -> dict[str, Any]:
    window = args.positions // options.cascades
    edges = (0, window, args.positions, window * (2**options.cascades - 1))
    groups: dict[str, list[tuple[float, float, float]]] = {name: [] for name in GROUPS}
    for (_, ids), (mine, theirs) in zip(documents, found, strict=True):
        start = args.positions + options.sink_tokens + args.stride_tokens
        back, above, nats = (x[start:] for x in (distances(ids, n), theirs - mine, -theirs))
        which = np.where(back == 0, len(GROUPS) - 1, np.searchsorted(edges, back, side="left") - 1)
        for number, name in enumerate(GROUPS):
            own = which == number
            groups[name].append((own.mean(), nats[own].sum() / len(own), above[own].sum() / len(own)))
    return {"ngram": n, "groups": {name: np.array(rows).tolist() for name, rows in groups.items()}}


def _print(args: Any, result: dict[str, Any]) -> None:
    rows = []
    for name, values in result["groups"].items():
        share, nats, above = np.array(values).mean(0)
        per_token = [f"{x / share:{form}}" if share else "–" for x, form in ((nats, ".3f"), (above, "+.4f"))]
        added = with_error(Mean.of([row[2] for row in values]), "{:+.5f}")
        rows.append([name, f"{share:.3f}", *per_token, added])
    what = "token" if result["ngram"] == 1 else f"run of {result['ngram']} tokens"
    common.print_table(
        f"**Last time the same {what}**: {args.model}, {len(next(iter(result['groups'].values())))} documents of "
        f"{args.tokens:,} tokens, {args.positions:,} positions in 4 sub-caches, strides of {args.stride_tokens}; nats.",
        ("it stood", "share of tokens", "StreamingLLM", "cascade above it", "adds to the whole"),
        rows,
    )


if __name__ == "__main__":
    main()
