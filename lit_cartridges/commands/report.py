"""``lit-cartridges report``: a page about runs."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.optional import require_modules
from lit_cartridges.settings import NonNegativeInt, ReadPath, WriteHtml, checked
from lit_cartridges.terminal import printable_line


@checked
def report_command(
    runs: list[ReadPath],
    *,
    out: WriteHtml | None = None,
    score: NonNegativeInt = 0,
    recording: ReadPath | None = None,
    title: str | None = None,
) -> None:
    """Write one page about runs or a comparison: figures, curves, the corpus, conversations, replies.

    Args:
        runs: folders of runs, a folder with runs in it, a folder of compare-inits, or the JSON of evaluate.
        out: the page; by default report.html in the folder, or here where several are given.
        score: load each run's model, and score its cartridge on so many conversations of its recording.
        recording: the conversations, where a run's folder has none of its own (data.source.recording, data.source.path).
        title: of the page; by default the names of the runs.
    """
    require_modules("plotly")
    from lit_cartridges.evals.table import aligned
    from lit_cartridges.report.chunk_scores import score_run, spread
    from lit_cartridges.report.gathering import gather, gather_run, run_folders
    from lit_cartridges.report.page import figures, named_rows, write_page

    if score:
        for folder in [folder for path in runs for folder in run_folders(path)]:
            print(printable_line(f"scoring the cartridge of {folder} …"))
            known = gather_run(folder, recording=recording)
            score_run(folder, spread(known.conversations, score), known.settings)
    facts = [one for path in runs for one in gather(path, recording=recording)]
    inside = runs[0] if len(runs) == 1 and runs[0].is_dir() else Path()
    page = out or inside / "report.html"
    write_page(facts, page, title=title or ", ".join(path.resolve().name for path in runs))
    if rows := named_rows(facts):
        header, lines = figures(rows)
        print(aligned([header, *lines]))
    for line in (line for one in facts for line in one.left_out):
        print(printable_line(f"left out: {line}"))
    print(printable_line(f"wrote {page}"))
