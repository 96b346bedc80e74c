"""``lit-cartridges leaderboard``: runs of ``reproduce`` side by side."""

from __future__ import annotations

from lit_cartridges.settings import ReadFolder, checked
from lit_cartridges.terminal import printable_line


@checked
def leaderboard_command(folder: ReadFolder) -> None:
    """Rank runs of reproduce, and mark those that no other beats with as few bytes.

    Reads every result.json in the folder's folders, and files of any name ending in .json in the folder itself, which anybody may
    have submitted. Writes leaderboard.md and leaderboard.svg there. What is damaged or no such file is named and left out.

    Args:
        folder: with the results.
    """
    from lit_cartridges.evals.statistics import Mean, with_error
    from lit_cartridges.evals.table import aligned, bytes_text
    from lit_cartridges.reproductions.leaderboard import leaderboard

    known, refused = leaderboard(folder)
    for board in known:
        rows = [["", "run", "row", "figure", "KV bytes"]]
        for one in board.entries:
            held = one.figure.kv_bytes
            figure = with_error(Mean(one.figure.mean, one.figure.standard_error), "{:.4g}")
            mark = "*" if one.name in board.front else ""
            rows.append([mark, one.run, one.figure.row, figure, "–" if held is None else bytes_text(held)])
        print(printable_line(f"{board.title} ({board.metric})"))
        print(aligned(rows) + "\n")
    for line in refused:
        print(printable_line(f"left out: {line}"))
    print(printable_line(f"{folder}/leaderboard.md and leaderboard.svg have this."))
