"""What a fraction of conversations off the corpus costs a cartridge, and what it saves, on a pocket model that abstains:

    python -m benchmarks.off_corpus

The model is made by recipes/pocket_abstaining.yaml where it is not there.

For each seed a text of its own and one recording of self-study; for each fraction a cartridge, all trained for as many optimizer
steps. Asked are held-out questions about the text, questions that a short text in the message itself answers, and questions about
names of which nobody told anything. What is there already is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import _common as common
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.off_corpus import DIVERGENCE, OffCorpus
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.systems import System, icl, no_context, of_cartridge
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.pocket.off_corpus import PocketNotes, PocketUnknown, write_requests
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.runs.atomic_files import write_atomically

FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5)
OWN, OTHERS = (0, 2), (1, 2)  # shares of the names: of the corpus, and of all else
FIGURES = ("accuracy", "notes", "abstains", "KL on notes", "KL on unknown")
_NEW_TOKENS = 16


class Trial:
    """One seed: its text, its requests, its cartridges."""

    def __init__(self, args: Any, seed: int) -> None:
        self.args, self.seed, self.folder = args, seed, args.folder / f"seed{seed}"
        world = {"seed": 500 + seed, "num_tokens": args.corpus_tokens, "part": OWN}
        self.text, self.requests = self.folder / "text.txt", self.folder / "requests.jsonl"
        write_atomically(self._made(self.text), (WorldCorpus(**world).text + "\n").encode())
        write_requests(self.requests, count=4000, seed=seed, part=OTHERS)
        self.own = PocketQuestions(**world, num_questions=args.questions)
        self.notes = PocketNotes(seed=seed, num_questions=args.questions, part=OTHERS)
        self.unknown = PocketUnknown(seed=seed, num_questions=args.questions, part=OTHERS)

    @staticmethod
    def _made(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def systems(self) -> list[str]:
        """Rows of the table."""
        trained = [f"{fraction:g}" for fraction in self.args.fractions]
        return [
            "model alone",
            "text in the context",
            *trained,
            *(["0.05, general"] if self.args.general else []),
        ]

    def result(self, system: str) -> dict[str, float]:
        """Its figures, kept in a file as soon as they are known."""
        kept = self.folder / f"{system.replace(', ', '_').replace(' ', '_')}.json"
        if not kept.exists():
            figures = self._measured(self._system(system))
            write_atomically(kept, (json.dumps(figures, indent=1) + "\n").encode())
        found: dict[str, float] = json.loads(kept.read_text())
        return found

    def _system(self, name: str) -> System:
        if name == "model alone":
            return no_context()
        if name == "text in the context":
            return icl(
                self.model,
                self.renderer,
                WorldCorpus(seed=500 + self.seed, num_tokens=self.args.corpus_tokens, part=OWN).token_ids(
                    self.renderer.tokenizer
                ),
            )
        return of_cartridge(name, Cartridge.from_pretrained(self._trained(name)), self.model)

    def _trained(self, name: str) -> Path:
        fraction, _, general = name.partition(", ")
        root = self.folder / f"fraction_{fraction}{'_general' if general else ''}"
        if not (root / "finished").exists():
            start = time.perf_counter()
            options = {
                "config": "recipes/pocket.yaml",
                "trainer.default_root_dir": root,
                "trainer.max_steps": self.args.steps,
                "trainer.callbacks": "[]",
                "model.model": self.args.model,
                "model.num_tokens": self.args.corpus_tokens // 10,
                "model.seed": self.seed,
                "data.seed": self.seed,
                "data.corpus": self.text,
                "data.source.recording": self.folder
                / ("conversations_general" if general else "conversations"),
                "data.off_corpus": "lit_cartridges.pocket.SEED_PROMPTS" if general else self.requests,
                "data.off_corpus_fraction": fraction,
            }
            command = [
                sys.executable,
                "-m",
                "lit_cartridges.cli",
                "fit",
                *(f"--{k}={v}" for k, v in options.items()),
            ]
            with (self._made(root / "log.txt")).open("w") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log)
            (root / "finished").touch()
            common.progress(f"{root}: {time.perf_counter() - start:.0f} s")
        return root / "cartridge"

    def _measured(self, system: System) -> dict[str, float]:
        on = evaluate(self.model, self.renderer, system, self.own, max_new_tokens=_NEW_TOKENS)
        notes, unknown = (off.of(system) for off in self._off)
        return {
            "accuracy": on.accuracy,
            "notes": notes.accuracy,
            "abstains": unknown.accuracy,
            "KL on notes": notes.figures[DIVERGENCE].mean,
            "KL on unknown": unknown.figures[DIVERGENCE].mean,
            "abstains on its own": fmean(float(self._off[0].abstains(reply.reply)) for reply in on.replies),
        }

    @cached_property
    def _off(self) -> list[OffCorpus]:
        return [
            OffCorpus(self.model, self.renderer, task, max_new_tokens=_NEW_TOKENS)
            for task in (self.notes, self.unknown)
        ]

    @cached_property
    def model(self) -> Any:
        """The frozen model, loaded once a seed."""
        return load_model(str(self.args.model))

    @cached_property
    def renderer(self) -> ChatRenderer:
        """Of its chat template."""
        return ChatRenderer(load_tokenizer(str(self.args.model)))


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, ask, print the table, draw the plot."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/pocket_abstaining/model"))
    parser.add_argument("--folder", type=Path, default=Path("runs/off_corpus"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--corpus_tokens", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--general", action="store_true", help="also 0.05 of what the model asks itself")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    args = parser.parse_args(given)
    if args.quick:
        args.seeds, args.fractions, args.corpus_tokens = args.seeds[:1], [0.0, 0.2], 200
        args.steps, args.questions = 4, 10
    facts = common.begin(args)
    if not args.model.exists():
        recipe = ["--config=recipes/pocket_abstaining.yaml", f"--model.init_args.export_dir={args.model}"]
        steps = ["--trainer.max_steps=2"] if args.quick else []
        subprocess.run(
            [sys.executable, "-m", "pocket_lab.pretrain", "fit", *recipe, *steps],
            check=True,
            stdout=sys.stderr,
        )
    trials = [Trial(args, seed) for seed in args.seeds]
    with ThreadPoolExecutor(args.processes) as threads:  # each waits for a process
        for trial in trials:
            list(threads.map(trial._trained, trial.systems[2:]))
    found = {system: [trial.result(system) for trial in trials] for system in trials[0].systems}
    common.headline(facts)
    title = f"{len(trials)} seed(s), {args.corpus_tokens} tokens at 10×, {args.steps} steps; ± between seeds"
    cells = [
        [system, *(with_error(Mean(*_mean([one[f] for one in results])), "{:.3f}") for f in FIGURES)]
        for system, results in found.items()
    ]
    common.print_table(title, ["system or fraction", *FIGURES], cells)
    if args.plot is not None:
        draw(args.plot, found, args.fractions)
    return common.finish(args, {**facts, "found": found})


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    return fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def draw(path: Path, found: dict[str, list[dict[str, float]]], fractions: Sequence[float]) -> None:
    """Accuracies over the fraction; dotted, what the model alone and the text in the context reach."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    lines = {
        "accuracy": "about the corpus",
        "notes": "reads a note in the message",
        "abstains": "abstains where nobody told",
    }
    places = range(len(fractions))
    for colour, (name, label) in enumerate(lines.items()):
        known = [_mean([one[name] for one in found[f"{fraction:g}"]]) for fraction in fractions]
        bars = [error or 0.0 for _, error in known]
        axes.errorbar(places, [m for m, _ in known], bars, fmt="o-", color=f"C{colour}", label=label)
        beside = "text in the context" if name == "accuracy" else "model alone"
        axes.axhline(_mean([one[name] for one in found[beside]])[0], color=f"C{colour}", ls=":", lw=1)
    axes.set_xticks(places, [f"{fraction:g}" for fraction in fractions])
    axes.set(
        xlabel="fraction of supervised tokens off the corpus", ylabel="share of questions", ylim=(0, 1.02)
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
