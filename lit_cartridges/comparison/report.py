"""The comparison as a table and as a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence

from lit_cartridges.cartridge_files.model_card import markdown_text
from lit_cartridges.comparison.results import OverSeeds
from lit_cartridges.evals.statistics import with_error
from lit_cartridges.evals.table import bytes_text


def table_rows(lines: Sequence[OverSeeds], steps: Sequence[int]) -> list[list[str]]:
    """Rows of cells, the header first; accuracy after each of ``steps`` optimizer steps."""
    header = ["strategy", "compression", "positions"]
    header += ["accuracy untrained" if step == 0 else f"after {step} steps" for step in steps]
    rows = [header + ["training s", "init s", "init peak memory"]]
    for line in lines:
        cells = [line.strategy, f"{line.compression:g}×", f"{line.num_tokens:,}"]
        cells += [with_error(line.accuracy.get(step), "{:.3f}") for step in steps]
        memory = line.init_peak_memory_bytes.mean
        cells += [with_error(line.training_s.get(steps[-1]), "{:.1f}"), with_error(line.init_s, "{:.2f}")]
        rows.append([*cells, "–" if memory is None else bytes_text(round(memory))])
    return rows


def markdown(rows: Sequence[Sequence[str]], notes: Sequence[str], *, plot: str) -> str:
    """A page with the table, the plot's file, and the notes."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    header, *rest = ([markdown_text(cell) for cell in row] for row in rows)
    lines = ["| " + " | ".join(row) + " |" for row in [header, rule, *rest]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), "", f"![accuracy]({plot})", ""])


def plot(lines: Sequence[OverSeeds]) -> bytes:
    """PNG: mean accuracy against mean seconds of init and training, a band of one standard error; a panel per
    compression."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    compressions = list(dict.fromkeys(line.compression for line in lines))
    strategies = list(dict.fromkeys(line.strategy for line in lines))
    figure = Figure(figsize=(6.2 * len(compressions), 4.8), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(compressions), sharey=True, squeeze=False)[0]
    for axes, compression in zip(panels, compressions, strict=True):
        for line in (line for line in lines if line.compression == compression):
            color = colormaps["tab10"](strategies.index(line.strategy) % 10)
            points = [
                (
                    (line.init_s.mean or 0.0) + (line.training_s[step].mean or 0.0),
                    mean.mean or 0.0,
                    mean.standard_error or 0.0,
                )
                for step, mean in line.accuracy.items()
            ]
            seconds, accuracy, error = (list(side) for side in zip(*points, strict=True))
            axes.plot(seconds, accuracy, label=line.strategy, marker=".", color=color)
            axes.fill_between(
                seconds,
                [a - e for a, e in zip(accuracy, error, strict=True)],
                [a + e for a, e in zip(accuracy, error, strict=True)],
                alpha=0.15,
                color=color,
                linewidth=0,
            )
        axes.set(title=f"{compression:g}× compression", xlabel="seconds of init and training")
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
