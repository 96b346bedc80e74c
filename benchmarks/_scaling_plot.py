"""Tokens/s over the number of GPUs, a panel per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_cartridges.estimates.roofline import STRATEGIES, Work

# Offload is nearly ZeRO-3 where many share the upload: a wide pale line below a narrow one shows both.
_COLOURS = dict(zip(STRATEGIES, ("#1b6ca8", "#b3263c", "#f3c677"), strict=True))
_WIDTHS = dict(zip(STRATEGIES, (1.8, 1.8, 5.0), strict=True))
# Figure -> whether it fits, line, label.
_KINDS: dict[str, tuple[str, Any, str]] = {
    "training_tokens_per_s": ("trains", "-", "training alone"),
    "tokens_per_s": ("generates", (0, (1, 1.5)), "with its own teacher in process"),
}


def plot_rates(path: Path, cells: Sequence[dict[str, Any]], work: Work) -> None:
    """Lines of `scaling.estimate`'s cells, as far as they fit."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(cell["model"] for cell in cells))
    counts = sorted({cell["gpus"] for cell in cells})
    hour = work.conversations * work.conversation_tokens / 3600
    figure = Figure(figsize=(4.2 * len(names), 4.4), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axhline(hour, color="0.6", linewidth=1)
        for strategy in reversed(STRATEGIES):
            own = [cell for cell in cells if (cell["model"], cell["strategy"]) == (name, strategy)]
            for key, (fits, dash, _) in _KINDS.items():
                shown = [cell for cell in own if cell[fits]]
                xs, ys = ([cell[k] for cell in shown] for k in ("gpus", key))
                axes.loglog(xs, ys, linestyle=dash, color=_COLOURS[strategy], linewidth=_WIDTHS[strategy])
        axes.set(title=f"Llama-3.1 {name}", xlabel="H100s")
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("trained tokens/s of all GPUs (computed)")
    panels[-1].text(
        1, hour * 1.3, f"{work.conversations:,} conversations in an hour", color="0.4", fontsize=9
    )
    handles = [Line2D([], [], color=_COLOURS[s], linewidth=_WIDTHS[s], label=s) for s in STRATEGIES]
    handles += [
        Line2D([], [], color="0.3", linestyle=dash, label=label) for _, dash, label in _KINDS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
