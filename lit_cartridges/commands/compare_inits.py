"""``lit-cartridges compare-inits``: init strategies side by side."""

from __future__ import annotations

import sys


def main(args: list[str]) -> None:
    """Train a recipe from each init strategy, and compare accuracy, seconds and memory.

    Each combination of strategy, compression and seed is a run of its own, asked before training and as it goes.
    Prints a table and writes it with all figures and a page of plots. The same command goes on with an interrupted comparison.
    """
    from lit_cartridges.optional import require_modules

    require_modules("plotly")
    from lit_cartridges.command_line.config_files import installed, require_config_files
    from lit_cartridges.command_line.parsers import CommandParser, option
    from lit_cartridges.comparison import ComparisonSettings, compare
    from lit_cartridges.comparison.init_options import split_options
    from lit_cartridges.report.gathering import gather
    from lit_cartridges.report.page import write_page
    from lit_cartridges.settings import Count, PositiveFloat, PositiveInt, Processes, ReadFile, WriteFolder
    from lit_cartridges.terminal import printable_line

    default = ComparisonSettings()
    parser = CommandParser(
        prog="lit-cartridges compare-inits",
        description=main.__doc__,
        epilog="--options.STRATEGY.KEY VALUE sets an option of one strategy (--options.Text.path FILE, "
        "--options.FromCartridge.path FOLDER). All other options are those of fit, for all runs: --model.learning_rate, "
        "--data.corpus PATH, …",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        dest="recipe",
        default=default.recipe,
        help="a recipe of fit with a LongContextEval, whose task has the questions (default: %(default)s)",
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=list(default.strategies),
        metavar="NAME",
        help=f"some of {', '.join(default.strategies)} (default: all)",
    )
    parser.add_argument(
        "--compressions",
        nargs="+",
        type=option(PositiveFloat),
        default=list(default.compressions),
        metavar="N",
        help="corpus tokens per cartridge position (default: 10 40)",
    )
    parser.add_argument(
        "--seeds",
        type=option(Count),
        default=default.seeds,
        help="runs of each combination (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=option(PositiveInt), help="optimizer steps of each run (default: the recipe's)"
    )
    parser.add_argument(
        "--every_n_steps",
        type=option(PositiveInt),
        default=default.every_n_steps,
        help="steps between measurements; the table shows the accuracy before training, after this many, after "
        "four times as many, and at the end (default: %(default)s)",
    )
    parser.add_argument(
        "--other_text",
        type=option(ReadFile),
        metavar="FILE",
        help="what Text reads, and the corpus of the cartridges that FromCartridge starts from (one per compression, "
        "trained from FirstTokens); for the bundled model one is made, unless given",
    )
    parser.add_argument(
        "--folder",
        type=option(WriteFolder),
        default=default.folder,
        help="for runs and results (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=option(Processes),
        help="trainings at a time (default: up to two on the CPU, one elsewhere)",
    )
    ours, others = parser.parse_known_args(args)
    require_config_files([installed(f"--config={ours.recipe}")])
    options, fit_arguments = split_options(others)
    try:
        settings = ComparisonSettings(**vars(ours), options=options, fit_arguments=fit_arguments)
        compare(settings)
        write_page(
            gather(settings.folder), settings.folder / "comparison.html", title="Init strategies compared"
        )
        print(printable_line(f"{settings.folder}/comparison.html has the plots"))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
