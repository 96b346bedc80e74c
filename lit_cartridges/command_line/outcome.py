"""What ``fit`` says at its end: where the cartridge is, its scores, how to chat with it, or how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lit_cartridges.runs.run_progress import optimizer_steps
from lit_cartridges.terminal import printable_line

_MOST_SCORES = 6


def outcome(trainer: Any, checkpoint: Any) -> list[str]:
    """Lines about a run that has ended, or was stopped, with its `CartridgeCheckpoint`."""
    folder = Path(checkpoint.folder or trainer.default_root_dir)
    cartridge, best = folder / "cartridge", folder / "cartridge-best"
    if not cartridge.is_dir():
        return []
    step, steps = trainer.global_step, optimizer_steps(trainer)
    lines = [f"cartridge: {cartridge} (optimizer step {step:,} of {steps:,})"]
    if scores := _scores(trainer):
        lines.append(f"scores:    {'; '.join(scores)}")
    if checkpoint.best is not None and best.is_dir():
        lines.append(f"best:      {best} ({checkpoint.monitor} {checkpoint.best:.4g})")
    lines.append(f"chat:      lit-cartridges chat {shlex.quote(str(cartridge))}")
    if 0 <= step < steps and not checkpoint.interrupted:  # which has told so itself
        lines.append(
            f"go on:     it stopped {steps - step:,} steps early; the same command goes on from there"
        )
    return [printable_line(line) for line in lines]


def _scores(trainer: Any) -> list[str]:
    """The losses as they were logged last, and the last measurement of each evaluating callback."""
    known = trainer.callback_metrics
    losses = [f"{name} {float(known[name]):.4g}" for name in ("train/loss", "val/loss") if name in known]
    told = [", ".join(losses)] if losses else []
    for callback in trainer.callbacks:
        history = getattr(callback, "history", None)
        if history:
            told.append(_measured(history[-1]))
    return told


def _measured(last: dict[str, Any]) -> str:
    """Accuracies, the cartridge's first; of a callback without any, its first figures."""
    figures = {name: value for name, value in last.items() if "/" in name}
    accuracies = {name: value for name, value in figures.items() if name.endswith("/accuracy")}
    chosen = sorted((accuracies or figures).items(), key=lambda one: "/cartridge/" not in one[0])
    told = ", ".join(f"{name} {value:.4g}" for name, value in chosen[:_MOST_SCORES])
    return f"at step {last['step']:,} {told}"
