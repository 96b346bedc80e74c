"""``lit-cartridges compare-inits``: init strategies side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lit_cartridges.command_line.config_files import installed, require_config_files
from lit_cartridges.optional import require_modules
from lit_cartridges.settings import (
    Count,
    PositiveFloat,
    PositiveInt,
    Processes,
    ReadFile,
    WriteFolder,
    checked,
)
from lit_cartridges.terminal import printable_line


@checked
def compare_inits_command(
    *,
    config: str = "pocket.yaml",
    strategies: Sequence[str] | None = None,
    compressions: Sequence[PositiveFloat] = (10.0, 40.0),
    seeds: Count = 3,
    steps: PositiveInt | None = None,
    every_n_steps: PositiveInt = 50,
    other_text: ReadFile | None = None,
    folder: WriteFolder = Path("runs/compare_inits"),
    processes: Processes | None = None,
    fit_arguments: Sequence[str] = (),
) -> None:
    """Train a recipe from each init strategy, and compare accuracy, seconds and memory.

    Each combination of strategy, compression and seed is a run of its own, asked before training and as it goes. Prints a table
    and writes it with all figures and a page of plots. The same command goes on with an interrupted comparison.

    --options.STRATEGY.KEY VALUE sets an option of one strategy (--options.Text.path FILE, --options.FromCartridge.path FOLDER).
    All other options are those of fit, for all runs: --model.learning_rate, --data.corpus PATH, …

    Args:
        config: a recipe of fit with a LongContextEval, whose task has the questions.
        strategies: names of init strategies; all by default.
        compressions: corpus tokens per cartridge position.
        seeds: runs of each combination.
        steps: optimizer steps of each run; by default the recipe's.
        every_n_steps: steps between measurements; the table shows the accuracy before training, after this many, after four
            times as many, and at the end.
        other_text: what Text reads, and the corpus of the cartridges that FromCartridge starts from (one per compression,
            trained from FirstTokens); for the bundled model one is made, unless given.
        folder: for runs and results.
        processes: trainings at a time; by default up to two on the CPU, one elsewhere.
    """
    require_config_files([installed(f"--config={config}")])
    require_modules("plotly")
    from lit_cartridges.comparison import ComparisonSettings, compare
    from lit_cartridges.comparison.init_options import split_options
    from lit_cartridges.init import INITS
    from lit_cartridges.report.gathering import gather
    from lit_cartridges.report.page import write_page

    options, others = split_options(fit_arguments)
    settings = ComparisonSettings(
        recipe=config,
        strategies=tuple(INITS if strategies is None else strategies),
        compressions=compressions,
        seeds=seeds,
        steps=steps,
        every_n_steps=every_n_steps,
        other_text=other_text,
        folder=folder,
        processes=processes,
        options=options,
        fit_arguments=others,
    )
    try:
        compare(settings)
        write_page(
            gather(settings.folder), settings.folder / "comparison.html", title="Init strategies compared"
        )
        print(printable_line(f"{settings.folder}/comparison.html has the plots"))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
