"""``lit-cartridges report``: a page about runs."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.command_line.parsers import CommandParser, option
from lit_cartridges.optional import require_modules
from lit_cartridges.settings import NonNegativeInt, ReadPath, WriteHtml
from lit_cartridges.terminal import printable_line


def main(args: list[str]) -> None:
    """Write one page about runs or a comparison: figures, curves, the corpus, conversations, replies."""
    require_modules("plotly")
    from lit_cartridges.evals.table import aligned
    from lit_cartridges.report.chunk_scores import score_run, spread
    from lit_cartridges.report.gathering import gather, gather_run, run_folders
    from lit_cartridges.report.page import figures, named_rows, write_page

    parser = CommandParser(prog="lit-cartridges report", description=main.__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=option(ReadPath),
        metavar="RUN",
        help="folders of runs, a folder with runs in it, a folder of compare-inits, or the JSON of evaluate",
    )
    parser.add_argument(
        "--out",
        type=option(WriteHtml),
        help="the page (default: report.html in the folder, or here where several are given)",
    )
    parser.add_argument(
        "--score",
        type=option(NonNegativeInt),
        default=0,
        metavar="N",
        help="load each run's model, and score its cartridge on N conversations of its recording (default: none)",
    )
    parser.add_argument(
        "--recording",
        type=option(ReadPath),
        help="the conversations, where a run's folder has none of its own (data.source.recording, data.source.path)",
    )
    parser.add_argument("--title", default="", help="of the page (default: the names of the runs)")
    options = parser.parse_args(args)
    runs: list[Path] = options.runs
    if options.score:
        for folder in [folder for path in runs for folder in run_folders(path)]:
            print(printable_line(f"scoring the cartridge of {folder} …"))
            known = gather_run(folder, recording=options.recording)
            score_run(folder, spread(known.conversations, options.score), known.settings)
    facts = [one for path in runs for one in gather(path, recording=options.recording)]
    inside = runs[0] if len(runs) == 1 and runs[0].is_dir() else Path()
    out = options.out or inside / "report.html"
    write_page(facts, out, title=options.title or ", ".join(path.resolve().name for path in runs))
    if rows := named_rows(facts):
        header, lines = figures(rows)
        print(aligned([header, *lines]))
    for line in (line for one in facts for line in one.left_out):
        print(printable_line(f"left out: {line}"))
    print(printable_line(f"wrote {out}"))
