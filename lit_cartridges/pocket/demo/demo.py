"""The demo from start to end."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_cartridges.pocket.demo.plan import DemoText, make_runs, make_texts
from lit_cartridges.pocket.demo.report import page_facts, table
from lit_cartridges.pocket.demo.scoring import Row, Scorer
from lit_cartridges.pocket.demo.training import Trained, train_all
from lit_cartridges.pocket.text_task import pocket_text
from lit_cartridges.report.page import write_page
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.settings import (
    NonNegativeInt,
    PositiveInt,
    Processes,
    ReadFile,
    Times,
    WriteFolder,
    WriteJson,
    check_fields,
)
from lit_cartridges.terminal import printable_line


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo may be told.

    Args:
        folder: where runs and report go.
        corpus: a text of the user's own in the pocket language, instead of the three made ones.
        json_path: a further place for the figures.
        seed: of the made texts.
        short_tokens, long_tokens: lengths of the made texts; the long one exceeds the bundled model's context.
        share: shortens every training, for a quick look.
        processes: trainings at a time, one core each.
        fresh: forget an earlier demo in the folder, instead of going on with it.
    """

    folder: WriteFolder = Path("runs/demo")
    corpus: ReadFile | None = None
    json_path: WriteJson | None = None
    seed: NonNegativeInt = 2026
    short_tokens: PositiveInt = 1500
    long_tokens: PositiveInt = 3000
    share: Times = 1.0
    processes: Processes = max(1, min(2, os.cpu_count() or 1))
    fresh: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


def run_demo(settings: DemoSettings) -> list[Row]:
    """Train, ask, print the table, and write the report.

    Raises:
        EvalError: the user's corpus is not in the pocket language; the message names the words.
        RuntimeError: a training failed.
    """
    begun = time.perf_counter()
    if settings.corpus is not None:
        pocket_text(settings.corpus)
    _clear_if_changed(settings)
    texts = make_texts(
        settings.folder / "texts",
        settings.corpus,
        seed=settings.seed,
        short_tokens=settings.short_tokens,
        long_tokens=settings.long_tokens,
    )
    runs = make_runs(texts, settings.folder, share=settings.share)
    told = printable_line(_told(texts))
    print(f"Training {len(runs)} cartridges of {told}, {settings.processes} at a time …")
    trained = train_all(runs, processes=settings.processes)
    print("Asking every system the held-out questions …")
    scorer = Scorer()
    rows = scorer.rows(texts, trained)
    scorer.score_chunks(trained)
    _write(settings, texts, rows, trained, total_s=time.perf_counter() - begun)
    print()
    print(table(rows))
    folder = printable_line(settings.folder)
    print(f"\n{folder}/report.html shows this with plots; {folder}/report.json holds the figures.")
    talk = f"Talk to a cartridge: lit-cartridges chat {runs[-2 if len(runs) > 4 else 0].folder}/cartridge"
    print(printable_line(talk))
    return rows


def _told(texts: list[DemoText]) -> str:
    return " and ".join(f"«{text.name}» ({text.num_tokens:,} tokens)" for text in texts)


def _clear_if_changed(settings: DemoSettings) -> None:
    """An interrupted demo goes on; one with other settings starts anew."""
    asked = {
        k: str(v)
        for k, v in asdict(settings).items()
        if k not in ("json_path", "processes", "fresh", "folder")
    }
    if settings.corpus is not None:
        asked["text"] = settings.corpus.read_text(encoding="utf-8")
    file = settings.folder / "demo.json"
    if settings.folder.exists() and (
        settings.fresh or not file.exists() or json.loads(file.read_text()) != asked
    ):
        if not file.exists() and any(settings.folder.iterdir()):
            raise RuntimeError(
                f"folder={str(settings.folder)!r} holds something that is no demo's; give another --folder"
            )
        shutil.rmtree(settings.folder)
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(asked, indent=2).encode())


def _write(
    settings: DemoSettings, texts: list[DemoText], rows: list[Row], trained: list[Trained], *, total_s: float
) -> None:
    figures = {
        "rows": [row.as_dict() for row in rows],
        "runs": [
            {
                "name": one.run.name,
                "command": "lit-cartridges " + " ".join(one.run.arguments()),
                "generating_s": one.generating_s,
                "training_s": one.training_s,
                "curve": one.curve,
            }
            for one in trained
        ],
        "total_s": total_s,
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False).encode()
    write_atomically(settings.folder / "report.json", text)
    if settings.json_path is not None:
        settings.json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(settings.json_path, text)
    count = {1: "a text", 3: "three texts"}[len(texts)]
    write_page(
        page_facts(rows, trained, texts),
        settings.folder / "report.html",
        title=f"Cartridges of {count}, on the bundled model",
        intro=f"All of this took {total_s:.0f} seconds. Accuracy is on held-out questions: greedy answers, exact value; "
        "s.e. is its standard error.",
    )
