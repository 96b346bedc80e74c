"""Ablations: cartridges of one corpus that differ in one thing alone, and are asked the same questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.pocket.corpus import WorldCorpus
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.reproductions.asked import AskedReproduction, Part
from lit_cartridges.reproductions.reproduction import POCKET, Cell, Measured
from lit_cartridges.settings import Count, ReadFile, checked

_WORLD: dict[str, Any] = {"seed": 7, "num_tokens": 1500}
_RECORDS = (
    "Please reference the patient medical records included below to answer the user's questions.\n\n"
    "<patient-records>\n{chunk}\n</patient-records>"
)


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Args:
        name: the row's.
        fit: options of ``fit`` beside the recipe's.
        made_with: options of ``synthesize``: variants with the same ones train on the same conversations. None for one that
            trains on no conversations.
    """

    name: str
    fit: tuple[str, ...] = ()
    made_with: tuple[str, ...] | None = ()


class Variants(AskedReproduction):
    """A table of `Variant`s, each trained from the same recording, and asked about LongHealth's patients.

    Args:
        path: benchmark_v5.json of github.com/kbressem/LongHealth, which you bring; without it a text of the bundled model's
            language, with questions about its facts.
        patients: whose records and questions.
        num_conversations: to be trained on, per seed.
        seeds: trainings of each variant, over which every question's value is averaged.
    """

    metric = "share of right replies, seeds and samples averaged within a question"
    defaults: ClassVar[dict[str, Any]] = {
        "model": "meta-llama/Llama-3.2-3B-Instruct",
        "recipe": "llama3.2_3b_longhealth.yaml",
        "num_tokens": (2048,),
        "systems": ("no_context",),
        "samples": 8,
        "temperature": 0.3,
        "max_new_tokens": 512,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": POCKET,
        "recipe": "pocket.yaml",
        "num_tokens": (100,),
        "steps": 120,
        "num_conversations": 384,
        "samples": 1,
        "temperature": 0.0,
        "max_new_tokens": 12,
        "batch_size": 64,
    }
    notes: tuple[str, ...] = ("The paper's cartridges have up to 8,192 positions.",)

    @checked
    def __init__(
        self,
        *,
        path: ReadFile | None = None,
        patients: Sequence[str] = tuple(f"patient_{i:02d}" for i in range(1, 11)),
        num_conversations: Count = 65_536,
        seeds: Count = 1,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.num_conversations, self.seeds, self.is_pocket = num_conversations, seeds, path is None
        if path is None:
            if self.model_name != POCKET:
                raise SettingError(
                    f"must be given; without it the text is one that {POCKET} alone understands",
                    path=None,
                    model=self.model_name,
                )
            task = PocketQuestions(**_WORLD, num_questions=150)
            self._part = Part("pocket", WorldCorpus, _WORLD, {"accuracy": task})
        else:
            chosen = list(patients)
            asked = LongHealth(path=path, patients=chosen, style="cartridges")
            options = {"path": str(path), "patients": chosen, "layout": "panel"}
            self.system_template = _RECORDS
            self._part = Part("patients", LongHealthCorpus, options, {"accuracy": asked})

    @abstractmethod
    def variants(self) -> Sequence[Variant]:
        """The rows, baselines apart."""

    def parts(self) -> Sequence[Part]:
        return [self._part]

    def cells(self) -> Sequence[Cell]:
        made = [
            Cell(
                row=one.name if len(self.num_tokens) == 1 else f"{one.name}, {size:,} positions",
                column="accuracy",
                options={"num_tokens": size, "variant": one},
                series=one.name,
            )
            for one in self.variants()
            for size in self.num_tokens
        ]
        return [*made, *(cell for cell in super().cells() if "system" in cell.options)]

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`; a training per seed."""
        if "variant" not in cell.options:
            return super().measure(cell)
        found = [
            super(Variants, self).measure(
                replace(cell, row=f"{cell.row}, seed {seed}", options={**cell.options, "seed": seed})
            )
            for seed in range(self.seed, self.seed + self.seeds)
        ]
        values = tuple(fmean(pair) for pair in zip(*(one.values for one in found), strict=True))
        facts = found[0].facts | {"means_of_seeds": [fmean(one.values) for one in found]}
        facts["training_s"] = sum(one.facts["training_s"] for one in found)
        return replace(found[0], values=values, seconds=sum(one.seconds for one in found), facts=facts)

    def made(self, part: Part, cell: Cell) -> tuple[Path, float]:
        variant, seed = cell.options["variant"], cell.options["seed"]
        more, recording_s = list(variant.fit), 0.0
        if variant.made_with is not None:
            recording, recording_s = self.recording(part, variant.made_with, seed)
            more += ["--data.source=Recorded", f"--data.source.path={recording}"]
        name = "".join(x if x.isalnum() else "_" for x in cell.row)
        place, seconds = self.train(part, cell.options["num_tokens"], name=name, seed=seed, more=more)
        return place, seconds + recording_s

    def recording(self, part: Part, made_with: Sequence[str] = (), seed: int = 0) -> tuple[Path, float]:
        """Conversations made once for all variants that train on them, and the seconds of making them."""
        kinds = [list(one.made_with) for one in self.variants() if one.made_with is not None]
        path = self.folder / "conversations" / f"{kinds.index(list(made_with))}_seed{seed}.parquet"
        options = {
            "model.model": self.model_name,
            "model.num_tokens": self.num_tokens[0],
            "data.seed": seed,
            "data.system_template": self.system_template,
            "num_conversations": self.num_conversations,
            "output": path,
        }
        typed = [f"--{name}={value}" for name, value in options.items()]
        own = [f"--config={self.recipe}", "--trainer.callbacks=[]", *part.options(), *self.fit, *made_with]
        return path, self.command(path, "synthesize", *own, *typed)
