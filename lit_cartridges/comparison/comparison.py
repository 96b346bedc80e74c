"""The comparison from start to end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_cartridges.comparison.init_options import (
    FROM_CARTRIDGE,
    check_cartridge,
    check_options,
    check_strategies,
)
from lit_cartridges.comparison.plan import Plan
from lit_cartridges.comparison.recipe import Recipe
from lit_cartridges.comparison.report import markdown, table_rows
from lit_cartridges.comparison.results import Measured, OverSeeds, over_seeds
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.table import aligned
from lit_cartridges.init import INITS
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.settings import (
    Count,
    PositiveFloat,
    PositiveInt,
    Processes,
    ReadFile,
    WriteFolder,
    check_fields,
)
from lit_cartridges.strategies.training_processes import is_finished, train_all
from lit_cartridges.terminal import printable


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What the comparison may be told.

    Args:
        recipe: a recipe of ``fit`` with a `LongContextEval`: a file, or the name of an installed one.
        fit_arguments: further options of ``fit``, for all runs.
        strategies: names of init strategies.
        compressions: corpus tokens per cartridge position.
        seeds: runs of each, with seeds 0, 1, …; runs with one seed share their conversations.
        steps: optimizer steps of each run; the recipe's by default.
        every_n_steps: optimizer steps between measurements of the accuracy.
        options: ``KEY=VALUE`` settings by strategy.
        other_text: see `Plan`.
        folder: for runs and results.
        processes: trainings at a time; by default two on the CPU, if it has two cores, and one elsewhere.
    """

    recipe: str = "pocket.yaml"
    fit_arguments: Sequence[str] = ()
    strategies: Sequence[str] = tuple(INITS)
    compressions: Sequence[PositiveFloat] = (10.0, 40.0)
    seeds: Count = 3
    steps: PositiveInt | None = None
    every_n_steps: PositiveInt = 50
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    other_text: ReadFile | None = None
    folder: WriteFolder = Path("runs/compare_inits")
    processes: Processes | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def compare(settings: ComparisonSettings) -> list[OverSeeds]:
    """Check everything, train what is not yet trained, print the table, and write it with the figures.

    Raises:
        ValueError: a setting cannot work, or the folder's runs were made with others; nothing has been trained then.
        RuntimeError: a training failed.
    """
    plan = _checked_plan(settings)
    sources, runs = plan.sources(), plan.runs()
    left = sum(not is_finished(run) for run in sources + runs)
    processes = settings.processes or (min(2, os.cpu_count() or 1) if plan.recipe.on_cpu else 1)
    print(
        f"{len(sources + runs)} trainings of {plan.steps} steps, {left} still to be done, {processes} at a time"
    )
    # What FromCartridge starts from must be there first.
    train_all([*sources, *(run for run in runs if run.strategy != FROM_CARTRIDGE)], processes=processes)
    train_all([run for run in runs if run.strategy == FROM_CARTRIDGE], processes=processes)
    name = plan.recipe.eval.name
    measured = [Measured.of(run, eval_name=name) for run in runs]
    for one in measured:
        if plan.steps not in one.accuracy:
            raise RuntimeError(
                f"{one.run.folder} has no accuracy at step {plan.steps}; remove it, and start again"
            )
    lines = over_seeds(measured)
    _write(plan, lines, measured, [Measured.of(run) for run in sources])
    return lines


def _checked_plan(settings: ComparisonSettings) -> Plan:
    compressions = list(settings.compressions)
    if not compressions or len(set(compressions)) < len(compressions):
        raise ValueError(f"compressions={compressions} must be different numbers above 0, such as 10 and 40")
    check_strategies(settings.strategies, settings.options)
    recipe = Recipe(settings.recipe, settings.fit_arguments)
    steps = recipe.max_steps if settings.steps is None else settings.steps
    if steps < 1:
        raise ValueError(f"recipe={settings.recipe!r} has trainer.max_steps={steps}; give --steps")
    plan = Plan(
        recipe=recipe,
        strategies=settings.strategies,
        compressions=compressions,
        seeds=settings.seeds,
        steps=steps,
        every_n_steps=settings.every_n_steps,
        folder=settings.folder,
        other_text=settings.other_text,
        options=settings.options,
    )
    if plan.needs_other_text and not plan.makes_other_text and settings.other_text is None:
        names = " and ".join(plan.needs_other_text)
        raise ValueError(
            f"strategies={list(settings.strategies)}: {names} need another text than the corpus, and one is made for the "
            "bundled model only; give --other_text FILE, or --options.STRATEGY.path, or leave them out of --strategies"
        )
    for compression in compressions:
        try:
            recipe.require_room(plan.num_tokens(compression))
        except ValueError as error:
            raise SettingError(str(error), compressions=compression) from error
    plan.write_other_text()
    for strategy in settings.strategies:
        check_options(strategy, plan.settings(strategy, compressions[0]))
    check_cartridge(settings.options.get(FROM_CARTRIDGE, ()), plan.num_tokens(min(compressions)))
    return plan


def _write(
    plan: Plan, lines: Sequence[OverSeeds], measured: Sequence[Measured], sources: Sequence[Measured]
) -> None:
    every, steps = plan.every_n_steps, plan.steps
    shown = sorted({step for step in (0, every, 4 * every) if step < steps} | {steps})
    rows, notes = table_rows(lines, shown), _notes(plan, measured, sources)
    print("\n" + aligned(rows) + "\n\n" + printable("\n".join(notes)))
    figures = {
        "recipe": plan.recipe.name,
        "fit_arguments": list(plan.recipe.arguments),
        "model": plan.recipe.model_name,
        "task": plan.recipe.eval.task.describe(),
        "corpus_tokens": plan.recipe.corpus_tokens,
        "steps": steps,
        "every_n_steps": every,
        "seeds": plan.seeds,
        "rows": [line.as_dict() for line in lines],
        "runs": [one.as_dict() for one in measured],
        "from_cartridge_sources": [one.as_dict() for one in sources],
    }
    for name, content in (
        ("comparison.json", (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode()),
        ("comparison.md", markdown(rows, notes).encode()),
    ):
        write_atomically(plan.folder / name, content)
    print(printable(f"\n{plan.folder}/comparison.md has this, comparison.json all figures."))


def _notes(plan: Plan, measured: Sequence[Measured], sources: Sequence[Measured]) -> list[str]:
    """What a reader of the table must know."""
    of_seeds = [
        max(one.generating_s for one in measured if one.run.seed == seed) for seed in range(plan.seeds)
    ]
    notes = [
        f"{plan.recipe.model_name}, a corpus of {plan.recipe.corpus_tokens:,} tokens ({plan.recipe.name}); mean ± standard "
        f"error over {plan.seeds} seed{'s' if plan.seeds > 1 else ''}.",
        "Training seconds are those of optimizer steps: without the init, asking the questions, and making conversations, "
        f"which the runs of a seed share ({max(of_seeds):.0f} s for the slowest seed).",
        "Init peak memory is what the init held beyond the model: "
        + ("resident memory of the process." if plan.recipe.on_cpu else "of the GPU's allocator."),
    ]
    if sources:
        each = ", ".join(f"{one.total_training_s:.1f} s at {one.run.compression:g}×" for one in sources)
        notes.append(
            "FromCartridge starts from a cartridge of another text, trained from its first tokens for as many steps with "
            f"seed 0; that training is not in its seconds: {each}."
        )
    return notes
