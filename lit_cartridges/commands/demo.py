"""``lit-cartridges demo``: the main job on the bundled model."""

from __future__ import annotations


def main(args: list[str]) -> None:
    """Train cartridges of made texts on the bundled model, and compare them with the texts in the context."""
    from lit_cartridges.optional import require_modules

    require_modules("plotly")
    from lit_cartridges.command_line.parsers import CommandParser, option
    from lit_cartridges.pocket.demo import DemoSettings, run_demo
    from lit_cartridges.settings import NonNegativeInt, Processes, ReadFile, Times, WriteFolder, WriteJson

    parser = CommandParser(prog="lit-cartridges demo", description=main.__doc__)
    parser.add_argument(
        "--folder",
        type=option(WriteFolder),
        default=DemoSettings.folder,
        help="for runs and report (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=option(WriteJson), dest="json_path", help="a further place for the figures"
    )
    parser.add_argument(
        "--corpus", type=option(ReadFile), help="a text file of your own in the pocket language"
    )
    parser.add_argument(
        "--seed",
        type=option(NonNegativeInt),
        default=DemoSettings.seed,
        help="of the made texts (default: %(default)s)",
    )
    parser.add_argument(
        "--share", type=option(Times), default=1.0, help="share of the training steps (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=option(Processes),
        default=DemoSettings.processes,
        help="trainings at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget an earlier demo instead of going on with it"
    )
    options = parser.parse_args(args)
    run_demo(DemoSettings(**vars(options)))
