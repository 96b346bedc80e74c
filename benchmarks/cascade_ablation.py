"""Which setting of the cascading KV cache matters, and why it wins or loses, on the bundled model.

One setting at a time is changed around the default; the sum of all layers' sizes stays the same. Three measures, on held-out
worlds: nats per token of streamed corpora, also by kind of token; accuracy on questions about a corpus of four times the
cache; the share of right digits of a passkey at 25, 50 and 75% of a text of that length. "control" is the newest sub-cache alone.
The rows "scores" do without attention: a token's worth is drawn at random, or is that of an oracle which knows that value
words will be asked for.

Kinds: value words of facts that are *stated* for the first time; of facts *restated* near (no farther behind the first
statement than the cache and one stride) and far; the *same name* as the last one, or an *other name*; *other* words. ± is the
standard error of the difference to the default over documents.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import _common as common
from benchmarks._cascade_variants import Variant, notes_ids, variants
from lit_cartridges.cascade import streamed_logprobs
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.passkey import passkey_cell
from lit_cartridges.evals.statistics import Mean
from lit_cartridges.evals.systems import CASCADE, streamed
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.passkey import PocketPasskey
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, KIND_OF
from lit_cartridges.pocket.world import World
from lit_cartridges.text import text_ids

POCKET = "package:lit_cartridges.pocket/model"
KINDS = ("stated", "restated near", "restated far", "same name", "other name", "other")
DEPTHS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """The model, and the texts that every variant reads: ids [documents, tokens], and the kind of each token but the first."""

    model: Any
    renderer: ChatRenderer
    ids: Tensor
    kinds: Tensor


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--total-tokens", type=int, help="sinks and sub-caches; 260 by default")
    parser.add_argument("--stride-tokens", type=int, help="256 by default")
    parser.add_argument("--settings", nargs="+", help="only these, beside the default")
    parser.add_argument("--documents", type=int, help="streamed, of 16 times the cache; 6 by default")
    parser.add_argument("--corpora", type=int, help="asked about, 25 questions each; 8 by default")
    parser.add_argument("--samples", type=int, help="passkeys per depth, of 4 digits; 6 by default")
    args = parser.parse_args(argv)
    args.total_tokens = args.total_tokens or (36 if args.quick else 260)
    args.stride_tokens = args.stride_tokens or (16 if args.quick else 256)
    args.documents = args.documents or (2 if args.quick else 6)
    args.corpora = args.corpora or (1 if args.quick else 8)
    args.samples = args.samples or (1 if args.quick else 6)
    facts = common.begin(args)
    common.headline(facts)
    base = CascadeOptions(total_tokens=args.total_tokens, stride_tokens=args.stride_tokens)
    bench = _bench(args)
    tokenizer = bench.renderer.tokenizer
    words = {
        "values": tokenizer.convert_tokens_to_ids(list(ATTRIBUTE_OF)),
        "names": tokenizer.convert_tokens_to_ids(list(KIND_OF)),
    }
    results: list[dict[str, Any]] = []
    for variant in variants(base, **words):
        if args.settings and variant.setting not in ("default", *args.settings):
            continue
        with notes_ids(bench.model):
            results.append(_measured(args, bench, variant, results[0] if results else None))
        common.progress(" ".join(str(x) for x in _row(results[-1])))
    common.print_table(
        f"**Ablation**: bundled model, {args.total_tokens} tokens per layer on average, 4 sub-caches, 4 sinks, strides of "
        f"{args.stride_tokens} by default; {args.documents} documents of {bench.ids.shape[1]:,} tokens, {25 * args.corpora} "
        f"questions and {len(DEPTHS) * args.samples} passkeys in {4 * args.total_tokens:,} tokens; seed {args.seed}.",
        ("setting", "value", "nats/token", "− default", *KINDS, "questions", "passkey digits"),
        [_row(result) for result in results],
    )
    counts = {kind: int((bench.kinds == i).sum()) for i, kind in enumerate(KINDS)}
    print("Tokens scored: " + ", ".join(f"{n:,} {kind}" for kind, n in counts.items()) + ".\n")
    return common.finish(args, {**facts, "counts": counts, "results": results})


def _bench(args: Any) -> _Bench:
    renderer = ChatRenderer(load_tokenizer(POCKET))
    opening = renderer.context_ids([])
    far = args.total_tokens + args.stride_tokens
    length = 16 * args.total_tokens
    rows, kinds = [], []
    for document in range(args.documents):
        corpus = World(_seed(args, document), held_out=True).corpus(length + 16)
        rows.append((opening + text_ids(renderer.tokenizer, corpus.text))[:length])
        kinds.append(([KINDS.index("other")] * len(opening) + _kinds(corpus, far))[:length])
    model = load_model(POCKET, dtype="float32", device=args.device)
    return _Bench(
        model=model,
        renderer=renderer,
        ids=torch.tensor(rows, device=args.device),
        kinds=torch.tensor(kinds)[:, 1:],
    )


def _kinds(corpus: PocketText, far: int) -> list[int]:
    """Of every token, an index into `KINDS`."""
    kinds, last = [], None
    for word in corpus.words:
        kind = "other" if word not in KIND_OF else "same name" if word == last else "other name"
        kinds.append(KINDS.index(kind))
        last = word if word in KIND_OF else last
    for places in corpus.spans.values():
        first, *again = sorted(end - 2 for _, end in places)  # the value is the word before the full stop
        kinds[first] = KINDS.index("stated")
        for place in again:
            kinds[place] = KINDS.index("restated far" if place - first > far else "restated near")
    return kinds


def _seed(args: Any, index: int) -> int:
    return 10_000 + 1_000 * args.seed + index


def _measured(args: Any, bench: _Bench, variant: Variant, default: dict[str, Any] | None) -> dict[str, Any]:
    cache = variant.new_cache(bench.model.config)
    nats = -streamed_logprobs(bench.model, cache, bench.ids).double().cpu()
    by_document = nats.mean(1).tolist()
    difference = Mean.of(
        [a - b for a, b in zip(by_document, (default or {}).get("by_document", []), strict=False)]
    )
    return {
        "setting": variant.setting,
        "value": variant.value,
        "cache": cache.settings(),
        "nats_per_token": nats.mean().item(),
        "by_document": by_document,
        "difference": difference.mean,
        "standard_error": difference.standard_error,
        "by_kind": {kind: nats[bench.kinds == i].mean().item() for i, kind in enumerate(KINDS)},
        "questions": _questions(args, bench, variant),
        "passkey": statistics.fmean(_passkeys(args, bench, variant)),
    }


def _questions(args: Any, bench: _Bench, variant: Variant) -> float:
    """Accuracy on 25 questions about each of some corpora."""
    found = []
    for index in range(args.corpora):
        task = PocketQuestions(
            seed=_seed(args, 500 + index), num_tokens=4 * args.total_tokens, num_questions=25
        )
        ids = text_ids(bench.renderer.tokenizer, task.corpus.pocket_text.text)
        system = streamed(CASCADE, bench.model, bench.renderer, ids, variant)
        found.append(evaluate(bench.model, bench.renderer, system, task, max_new_tokens=12).accuracy)
    return statistics.fmean(found)


def _passkeys(args: Any, bench: _Bench, variant: Variant) -> Sequence[float]:
    return [
        passkey_cell(
            bench.model,
            bench.renderer,
            CASCADE,
            PocketPasskey(),
            variant,
            num_tokens=4 * args.total_tokens,
            depth=depth,
            samples=args.samples,
            max_new_tokens=12,
            first_seed=_seed(args, 0),
        ).per_digit
        for depth in DEPTHS
    ]


def _row(result: dict[str, Any]) -> list[str]:
    difference, error = result["difference"], result["standard_error"]
    return [
        result["setting"],
        result["value"],
        f"{result['nats_per_token']:.4f}",
        "–" if difference is None or error is None else f"{difference:+.4f} ± {error:.4f}",
        *(f"{result['by_kind'][kind]:.3f}" for kind in KINDS),
        f"{result['questions']:.3f}",
        f"{result['passkey']:.3f}",
    ]


if __name__ == "__main__":
    main()
