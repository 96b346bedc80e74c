"""``lit-cartridges demo``: the main job on the bundled model."""

from __future__ import annotations

import os
from pathlib import Path

from lit_cartridges.optional import require_modules
from lit_cartridges.settings import (
    NonNegativeInt,
    Processes,
    ReadFile,
    Times,
    WriteFolder,
    WriteJson,
    checked,
)


@checked
def demo_command(
    *,
    folder: WriteFolder = Path("runs/demo"),
    json: WriteJson | None = None,
    corpus: ReadFile | None = None,
    seed: NonNegativeInt = 2026,
    share: Times = 1.0,
    processes: Processes | None = None,
    fresh: bool = False,
) -> None:
    """Train cartridges of made texts on the bundled model, and compare them with the texts in the context.

    Args:
        folder: for runs and report.
        json: a further place for the figures.
        corpus: a text file of your own in the pocket language.
        seed: of the made texts.
        share: of the training steps.
        processes: trainings at a time; by default two where there are two cores.
        fresh: forget an earlier demo instead of going on with it.
    """
    require_modules("plotly")
    from lit_cartridges.pocket.demo import DemoSettings, run_demo

    run_demo(
        DemoSettings(
            folder=folder,
            corpus=corpus,
            json_path=json,
            seed=seed,
            share=share,
            processes=processes or max(1, min(2, os.cpu_count() or 1)),
            fresh=fresh,
        )
    )
