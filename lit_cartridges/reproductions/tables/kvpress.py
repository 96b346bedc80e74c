"""RULER's score over the share of positions that are gone: the axes on which kvpress compares what presses keep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.pressed import kept_tokens, pressed
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.systems import ICL, NO_CONTEXT, System, of_cartridge
from lit_cartridges.evals.systems.system import TokenIds
from lit_cartridges.init import INITS
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.reproduction import Cell, Measured
from lit_cartridges.reproductions.tables.ruler import RulerTable
from lit_cartridges.settings import PositiveShare, checked

_TRAINED = "trained"
_WHOLE = {ICL: 0.0, NO_CONTEXT: 1.0}


class KvpressTable(RulerTable):
    """Init strategies, untrained, as presses in closed form; and where wanted a trained cartridge for every text and ratio.

    Args:
        inits: strategies by name, a row each.
        ratios: shares of the positions that are gone, a column each.
        trained: train a cartridge for every text and ratio as well, by the recipe.
    """

    name = "kvpress"
    paper = "kvpress's leaderboard: RULER at 4,096 tokens"
    metric = "RULER's score, 0 to 1, every task counting alike"
    published = ()
    x_title = "share of positions gone, 1 - p/L"
    notes: tuple[str, ...] = (
        *RulerTable.notes,
        "No press sees the question. It stands at position p, behind what is left; in kvpress it stands at L, where it was.",
        "kvpress has the text in the user's turn, its own 500 texts a task, and one question about each; its figures stand in "
        "its leaderboard, and benchmarks/kvpress_peer.py measures it beside these strategies.",
        "Strategies that ask for conversations get one request to repeat the text, and the text: nothing is generated for them.",
    )
    defaults: ClassVar[dict[str, Any]] = {
        **RulerTable.defaults,
        "num_tokens": (),
        "contexts": 10,
        "questions_per_text": 1,
    }
    quick: ClassVar[dict[str, Any]] = {
        **RulerTable.quick,
        "kinds": ("niah_single_1",),
        "inits": ("FirstTokens", "ImportantTokens", "AttentionMatching", "CascadeTokens"),
        "ratios": (0.25, 0.5),
    }

    @checked
    def __init__(
        self,
        *,
        inits: Sequence[str] = (
            "FirstTokens",
            "RandomTokens",
            "SampledChunks",
            "ImportantTokens",
            "AttentionMatching",
            "CascadeTokens",
        ),
        ratios: Sequence[PositiveShare] = (0.25, 0.5, 0.75, 0.875),
        trained: bool = False,
        **more: Any,
    ) -> None:
        needing = ("FromCartridge", "Text")
        if unknown := [name for name in inits if name not in INITS or name in needing]:
            known = ", ".join(name for name in INITS if name not in needing)
            raise SettingError(f"{unknown[0]!r} is none of {known}", inits=list(inits))
        if not ratios or max(ratios) >= 1:
            raise SettingError("must be shares below 1, at least one", ratios=list(ratios))
        super().__init__(**more)
        if self.num_tokens or (others := [name for name in self.systems if name not in _WHOLE]):
            told = {"num_tokens": self.num_tokens} if self.num_tokens else {"systems": others}
            raise SettingError("has no place here; ratios and inits say what is compared", told)
        self.inits, self.ratios, self.trained = list(inits), list(ratios), trained

    def cells(self) -> Sequence[Cell]:
        """One for every row and ratio; the whole context stands where nothing is gone."""
        found = [
            Cell(row=name, column=_column(_WHOLE[name]), options={"system": name}, x=_WHOLE[name])
            for name in self.systems
        ]
        for row in [*self.inits, *([_TRAINED] if self.trained else [])]:
            found += [
                Cell(row=row, column=_column(ratio), options={"ratio": ratio}, x=ratio)
                for ratio in self.ratios
            ]
        return found

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`; all tasks and texts, every task counting alike."""
        start = time.perf_counter()
        values: list[float] = []
        weights: list[float] = []
        clusters: list[str] = []
        found: list[EvalResult] = []
        seconds: list[float] = []
        for kind in self.columns:
            self._column, before = kind, len(values)
            for part in self.parts():
                system, made_s = self._pressed(cell, part)
                result = evaluate(
                    self.model,
                    self.renderer,
                    system,
                    part.tasks[kind],
                    max_new_tokens=self.cut,
                    num_questions=self.num_questions,
                    **self.asking,
                )
                own = self.values(result, part.tasks[kind].pick(self.num_questions))["values"]
                values += own
                clusters += [part.name] * len(own)
                found.append(result)
                seconds.append(made_s)
            asked = len(values) - before
            weights += [1 / asked] * asked
        return Measured(
            values=tuple(values),
            weights=tuple(weights),
            clusters=tuple(clusters),
            num_kv_tokens=round(fmean(one.num_kv_tokens for one in found)),
            kv_bytes=round(fmean(one.kv_bytes for one in found)),
            facts={"seconds_to_make_one": fmean(seconds)},
            seconds=time.perf_counter() - start,
        )

    def _pressed(self, cell: Cell, part: Part) -> tuple[System, float]:
        """What stands in front of the questions, and the seconds of making it."""
        if "system" in cell.options:
            system, _ = self._system(cell, part)
            return system, system.prefill_s
        ids: TokenIds = part.corpus(**part.corpus_options).token_ids(self.renderer.tokenizer)
        ratio = cell.options["ratio"]
        if cell.row == _TRAINED:
            size = kept_tokens(len(self.renderer.context_ids(ids)), ratio)
            place, seconds = self.train(part, size, name=f"{part.name}_{size}")
            return of_cartridge(_TRAINED, Cartridge.from_pretrained(str(place)), self.model), seconds
        init = INITS[cell.row]()
        system = pressed(self.model, self.renderer, ids, init, ratio=ratio, seed=self.seed, name=cell.row)
        return system, system.prefill_s


def _column(ratio: float) -> str:
    return f"{100 * ratio:g}% gone"
