"""Which tokens a cascading KV cache keeps, on held-out texts of the bundled model, and how much attention they had.

At the end of each text of four times the cache. Only what has left sub-cache 0 counts, since before that nothing is lost.

Kept: the share of all words of a kind, within the reach of the cascade, that a token set still holds (the mean over heads).
Attention: the mean score of those that are held, that is, the attention they got from all queries since.
Place: where a winner stood among those that it competed with, from 0, the oldest, to 1, the newest; 0.5 if age makes no
difference. Facts: of the statements in reach, how many have their value word in at least one head, in how many of the heads,
and how often the name is there beside it. "Attention" are the scores of the cascade; the others are controls (see
`cascade_ablation`).
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch

from benchmarks import _common as common
from benchmarks._cascade_variants import notes_ids, variants
from benchmarks.cascade_ablation import POCKET
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.cascade_layer import CascadeLayer
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, KIND_OF
from lit_cartridges.pocket.world import World
from lit_cartridges.text import text_ids

KINDS = ("name", "value", "full stop", "other")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--total-tokens", type=int, help="260 by default")
    parser.add_argument("--stride-tokens", type=int, help="256 by default")
    parser.add_argument("--documents", type=int, help="12 by default")
    args = parser.parse_args(argv)
    args.total_tokens = args.total_tokens or (36 if args.quick else 260)
    args.stride_tokens = args.stride_tokens or (16 if args.quick else 256)
    args.documents = args.documents or (2 if args.quick else 12)
    facts = common.begin(args)
    common.headline(facts)
    model: Any = load_model(POCKET, dtype="float32", device=args.device)
    renderer = ChatRenderer(load_tokenizer(POCKET))
    base = CascadeOptions(total_tokens=args.total_tokens, stride_tokens=args.stride_tokens)
    to_ids = renderer.tokenizer.convert_tokens_to_ids
    known = variants(base, values=to_ids(list(ATTRIBUTE_OF)), names=to_ids(list(KIND_OF)))
    results: list[dict[str, Any]] = []
    for variant in known:
        if (variant.setting, variant.value) not in _SHOWN:
            continue
        found = []
        for document in range(args.documents):
            corpus = World(20_000 + 1_000 * args.seed + document, held_out=True).corpus(4 * args.total_tokens)
            opening = renderer.context_ids([])
            ids = torch.tensor([opening + text_ids(renderer.tokenizer, corpus.text)], device=args.device)
            cache = variant.new_cache(model.config)
            with notes_ids(model):
                cascade_prefill(model, cache, ids)
            found.append([_looked_at(layer, corpus, len(opening)) for layer in cache.layers])
        label = _SHOWN[variant.setting, variant.value]
        for layer, of_layer in enumerate(zip(*found, strict=True)):
            mean = {key: _mean([one[key] for one in of_layer]) for key in of_layer[0]}
            results.append({"scores": label, "layer": layer, **mean})
        common.progress(label)
    common.print_table(
        f"**Kept**: bundled model, {args.total_tokens} tokens in 4 sub-caches, strides of {args.stride_tokens}, {args.documents} "
        f"texts of {4 * args.total_tokens:,} tokens; seed {args.seed}.",
        tuple(results[0]),
        [
            [
                str(x) if key in ("scores", "layer") else _shown(x, 2 if "attention" in key else 3)
                for key, x in r.items()
            ]
            for r in results
        ],
    )
    return common.finish(args, {**facts, "results": results})


_SHOWN = {
    ("default", ""): "attention",
    ("ema_factor", "0.9"): "attention, β = 0.9",
    ("shared_heads", "True, mean"): "attention, one set, mean",
    ("scores", "at random"): "random",
    ("scores", "value words first"): "value words first",
}


def _looked_at(layer: Any, corpus: PocketText, opening: int) -> dict[str, float | None]:
    """The figures of one layer that has read one text; None where there was nothing to average."""
    shape, counts = layer.shape, layer.counts[0].tolist()
    newest = counts[0]
    held, scores = layer.tokens[0].cpu(), layer.scores[0].cpu()  # (H, n)
    old = slice(shape.sink_tokens, held.shape[1] - newest)
    end = opening + corpus.num_tokens
    # What left sub-cache 0 and is no older than the oldest block that the last sub-cache holds in full.
    reach = range(max(shape.sink_tokens, end - shape.span_tokens + 2**shape.cascades), end - newest)
    words = [None] * opening + list(corpus.words)
    sets = [set(row[old].tolist()) for row in held]
    found: dict[str, float | None] = {}
    for kind in KINDS:
        places = [t for t in reach if words[t] is not None and _kind(words[t]) == kind]
        found[f"{kind} kept"] = _mean([fmean(t in kept for t in places) for kept in sets]) if places else None
        mine = [
            float(score)
            for row, line in zip(held[:, old], scores[:, old], strict=True)
            for t, score in zip(row.tolist(), line, strict=True)
            if words[t] is not None and _kind(words[t]) == kind
        ]
        # Scores that were made up are no attention.
        found[f"{kind} attention"] = _mean(mine) if type(layer) is CascadeLayer else None
    places, column = [], shape.sink_tokens
    for level in range(shape.cascades - 1, 0, -1):
        block = held[:, column : column + counts[level]] - shape.sink_tokens
        places += ((block % 2**level) / (2**level - 1)).flatten().tolist()
        column += counts[level]
    found["place"] = _mean(places)
    statements = [
        (opening + start, opening + end - 2, fact.name)
        for fact, spans in corpus.spans.items()
        for start, end in spans
        if opening + start >= reach.start and opening + end <= reach.stop
    ]
    with_value = [[value in kept for kept in sets] for _, value, _ in statements]
    found["facts with value"] = _mean([any(row) for row in with_value])
    found["heads with value"] = _mean([fmean(row) for row in with_value])
    found["name beside it"] = _mean(
        [
            any(t in kept for t in range(start, value) if words[t] == name)
            for start, value, name in statements
            for kept in sets
            if value in kept
        ]
    )
    return found


def _kind(word: str | None) -> str:
    return (
        "name"
        if word in KIND_OF
        else "value"
        if word in ATTRIBUTE_OF
        else "full stop"
        if word == "."
        else "other"
    )


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


if __name__ == "__main__":
    main()
