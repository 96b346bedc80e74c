"""Teachers of chunks, compared: `python -m pocket_lab.compare_teachers [--seeds 3] [--steps 300]`.

Each teacher makes the conversations of the same recipe, ``pocket_two_places.yaml``, for the same corpora, and a cartridge is
trained on them from the same start. Per seed the corpus is another, and all random choices are. The questions need one fact of
the corpus, or two that it states far apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lit_cartridges.command_line.ending import run_command
from lit_cartridges.command_line.functions import run_function
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.evals.statistics import Mean, with_error
from lit_cartridges.evals.table import aligned
from lit_cartridges.pocket.questions import read
from lit_cartridges.pocket.two_places import TwoPlacesCorpus
from lit_cartridges.runs.run_metrics import read_metrics
from lit_cartridges.settings import Count, PositiveInt, Processes, WriteFolder, checked
from lit_cartridges.strategies.training_processes import train_all

_RECIPE = "pocket_two_places.yaml"
_CASCADE = "--data.source.teacher.cascade"
TEACHERS: dict[str, tuple[str, ...]] = {
    "chunk alone": (),
    "cascade of a third": (
        "--data.source.corpus_before_chunk=true",
        "--data.source.teacher=LocalTeacher",
        f"{_CASCADE}.total_tokens=516",
        f"{_CASCADE}.stride_tokens=256",
    ),
    "cascade of two thirds": (
        "--data.source.corpus_before_chunk=true",
        "--data.source.teacher=LocalTeacher",
        f"{_CASCADE}.total_tokens=1028",
        f"{_CASCADE}.stride_tokens=256",
    ),
    "corpus in full": ("--data.source.corpus_before_chunk=true",),
}
"""What stands in front of the teacher's prompts, by options of ``fit``; "in full" is the most that a cascade can give."""


@dataclass(frozen=True, kw_only=True)
class TaughtRun:
    """One training: a teacher and a seed, which decides corpus, questions, conversations and their order."""

    teacher: str
    seed: int
    max_steps: int
    base: Path

    @property
    def name(self) -> str:
        """For the bars."""
        return f"{self.teacher}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Of this run."""
        return self.base / f"{self.teacher.replace(' ', '_')}_seed{self.seed}"

    @property
    def world(self) -> int:
        """Seed of the corpus: none that a recipe has."""
        return 700 + self.seed

    def arguments(self) -> list[str]:
        """The command line after ``lit-cartridges``."""
        recipe = _recipe()
        corpus, callbacks = recipe["data"]["corpus"], recipe["trainer"]["callbacks"]
        for asked in (corpus, *(callback["init_args"]["task"] for callback in callbacks)):
            asked["init_args"]["seed"] = self.world
        for callback in callbacks:
            callback["init_args"]["every_n_steps"] = self.max_steps
        return [
            "fit",
            f"--config={_RECIPE}",
            f"--seed_everything={self.seed}",
            f"--data.seed={self.seed}",
            f"--trainer.max_steps={self.max_steps}",
            f"--trainer.default_root_dir={self.folder}",
            f"--data.corpus={json.dumps(corpus)}",
            f"--trainer.callbacks={json.dumps(callbacks)}",
            *TEACHERS[self.teacher],
        ]

    def figures(self) -> dict[str, float]:
        """Accuracies of cartridge and ICL, and what the conversations were worth; see `conversation_figures`."""
        last = {name: value for row in read_metrics(self.folder) for name, value in row.items()}
        found = {
            f"{task}/{system}": last[f"{task}/{system}/accuracy"]
            for task in ("two_facts", "one_fact")
            for system in ("cartridge", "icl")
        }
        return {**found, **conversation_figures(self)}


def _recipe() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((files("lit_cartridges.recipes") / _RECIPE).read_text())
    return content


def conversation_figures(run: TaughtRun) -> dict[str, float]:
    """Of the recorded conversations: the share whose question asks for what the corpus states (``valid``), of these the share
    with exactly the right values (``right``), the share that asks for facts of both halves (``two places``), the share of those
    that is right (``two right``), and how many of the corpus's facts are asked for (``covered``)."""
    corpus_options = _recipe()["data"]["corpus"]["init_args"]
    text = TwoPlacesCorpus(**{**corpus_options, "seed": run.world}).pocket_text
    recording = Recording(run.folder / "recording")
    total = valid = right = both = both_right = 0
    covered = set()
    for group in recording.groups():
        for conversation in recording.read_group(group):
            message, answer = conversation.messages
            total += 1
            question = read(message.content, text)
            if question is None:
                continue
            valid += 1
            covered |= set(question.facts)
            is_right = question.is_right(answer.content)
            right += is_right
            if len({text.is_late(fact) for fact in question.facts}) == 2:
                both += 1
                both_right += is_right
    return {
        "valid": valid / total,
        "right": right / max(1, valid),
        "two places": both / max(1, valid),
        "two right": both_right / max(1, both),
        "covered": len(covered) / len(text.spans),
    }


def main(args: list[str] | None = None) -> None:
    """Trains what is not yet trained, prints the table, and writes all figures."""
    prog = "python -m pocket_lab.compare_teachers"
    run_command(
        prog,
        sys.argv[1:] if args is None else args,
        lambda left: run_function(compare_teachers, left, prog=prog),
    )


@checked
def compare_teachers(
    *,
    seeds: Count = 3,
    steps: PositiveInt = 300,
    folder: WriteFolder = Path("runs/two_places"),
    processes: Processes = 1,
) -> None:
    """Cartridges of teachers with and without a cartridge of the whole corpus.

    Args:
        seeds: corpora.
        steps: optimizer steps.
        folder: for runs and figures.
        processes: trainings at a time.
    """
    runs = [
        TaughtRun(teacher=teacher, seed=seed, max_steps=steps, base=folder)
        for teacher in TEACHERS
        for seed in range(seeds)
    ]
    train_all(runs, processes=processes)
    figures = {run.name: run.figures() for run in runs}
    print("\n" + aligned(table(runs, figures)))
    (folder / "teachers.json").write_text(json.dumps(figures, indent=1) + "\n")


def table(runs: Sequence[TaughtRun], figures: dict[str, dict[str, float]]) -> list[list[str]]:
    """Rows of cells, the header first: mean ± standard error over the seeds, per teacher and for ICL."""

    def cells(teacher: str, names: Sequence[str]) -> list[str]:
        own = [figures[run.name] for run in runs if run.teacher == teacher]
        return [with_error(Mean.of([one[name] for one in own]), "{:.3f}") for name in names]

    qualities = ["valid", "right", "two places", "two right", "covered"]
    rows = [["in front of the teacher", "two facts", "one fact", *qualities]]
    for teacher in TEACHERS:
        rows.append([teacher, *cells(teacher, ["two_facts/cartridge", "one_fact/cartridge", *qualities])])
    return [
        *rows,
        ["(ICL)", *cells(runs[0].teacher, ["two_facts/icl", "one_fact/icl"]), *["–"] * len(qualities)],
    ]


if __name__ == "__main__":
    main()
