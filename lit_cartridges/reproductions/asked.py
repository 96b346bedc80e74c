"""Tables of cartridges and what they replace, asked about one corpus or several."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.command_line.config_files import installed, require_config_files
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.corpus import Corpus
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.statistics import clustered
from lit_cartridges.evals.systems import (
    ICL,
    NO_CONTEXT,
    AskedKind,
    Sizes,
    System,
    SystemInput,
    chosen,
    of_cartridge,
)
from lit_cartridges.evals.tasks.task import EvalQuestion, EvalTask
from lit_cartridges.models import load_config, load_model, load_tokenizer
from lit_cartridges.reproductions.reproduction import Cell, Measured, Reproduction
from lit_cartridges.settings import (
    Count,
    DTypeName,
    PositiveInt,
    Range,
    Seed,
    Temperature,
    checked,
)


@dataclass(frozen=True)
class Part:
    """A corpus with the questions about it; a table has one, or asks several and takes them together.

    Args:
        name: of its trainings' folders, and of the cluster of its questions where there are several parts.
        corpus, corpus_options: its class, and what that is made with.
        tasks: by column.
    """

    name: str
    corpus: type[Corpus]
    corpus_options: Mapping[str, Any]
    tasks: Mapping[str, EvalTask]

    def options(self) -> list[str]:
        """The corpus as options of ``fit``."""
        own = [f"--data.corpus={self.corpus.__module__}.{self.corpus.__qualname__}"]
        return own + [
            f"--data.corpus.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in self.corpus_options.items()
        ]


class AskedReproduction(Reproduction):
    """Trains a cartridge per size with ``fit``, and asks it and the baselines.

    Args:
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``.
        recipe: of ``fit``: a file, or the name of an installed one.
        fit: further options of ``fit``, such as ``--trainer.devices=8``.
        num_tokens: positions of the cartridges that are trained, a row each.
        steps: optimizer steps; the recipe's by default.
        systems: baselines beside them, of "icl", "truncated_icl", "no_context", "cascade", "streaming_llm".
        max_context_tokens: positions that icl and truncated_icl may use, if fewer than the model has.
        num_questions: ask so many of each part, at even distances; all by default.
        samples, temperature: of the replies; 0 takes the likeliest token.
        max_new_tokens: length at which a reply is cut.
        enable_thinking: let models that can think do so.
        batch_size: questions answered together.
        seed: of trainings and replies.
        dtype: of the model.
    """

    system_template = "{chunk}"

    @checked
    def __init__(
        self,
        *,
        model: str,
        recipe: str,
        fit: Sequence[str] = (),
        num_tokens: Sequence[Annotated[int, Range(least=2, most=2**24)]] = (),
        steps: PositiveInt | None = None,
        systems: Sequence[str] = (ICL, NO_CONTEXT),
        max_context_tokens: PositiveInt | None = None,
        num_questions: PositiveInt | None = None,
        samples: Count = 1,
        temperature: Temperature = 0.0,
        max_new_tokens: PositiveInt = 64,
        enable_thinking: bool = False,
        batch_size: Count = 16,
        seed: Seed = 0,
        dtype: DTypeName = "auto",
    ) -> None:
        self.systems = {kind.name: kind for kind in (chosen(systems, AskedKind) if systems else [])}
        if not (self.systems or num_tokens):
            raise SettingError("give sizes of cartridges, or systems", num_tokens=[], systems=[])
        if samples > 1 and not temperature:
            raise SettingError("samples above 1 need a temperature above 0", samples=samples, temperature=0)
        try:
            require_config_files([f"--config={installed(recipe)}"])
        except SettingError as error:
            raise SettingError(error.why.partition(": ")[2], recipe=recipe) from error
        load_config(model)
        self.model_name, self.recipe, self.fit, self.steps = model, recipe, list(fit), steps
        self.num_tokens, self.num_questions, self.dtype, self.seed = (
            list(num_tokens),
            num_questions,
            dtype,
            seed,
        )
        self.max_context_tokens, self.max_new_tokens = max_context_tokens, max_new_tokens
        self.asking: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "batch_size": batch_size,
            "seed": seed,
        }
        self.enable_thinking = enable_thinking
        self._read: tuple[tuple[str, str], System, float] | None = None

    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """All of them, with the same columns."""

    def values(self, result: EvalResult, questions: Sequence[EvalQuestion]) -> dict[str, Any]:
        """What a part's replies are worth: ``values``, one per question, and ``weights`` where they have some."""
        del questions
        return {"values": [reply.score for reply in result.replies]}

    def together(self, values: Sequence[float], replies: Sequence[EvalResult]) -> dict[str, Any]:
        """Further fields of `Measured` for a cell whose figure is no mean of its values."""
        del values, replies
        return {}

    def cells(self) -> Sequence[Cell]:
        columns = list(self.parts()[0].tasks)
        rows: list[tuple[str, dict[str, Any]]] = [
            (f"cartridge, {size:,} positions", {"num_tokens": size}) for size in self.num_tokens
        ]
        rows += [(name, {"system": name}) for name in self.systems]
        return [
            Cell(row=row, column=column, options=options, series=row.partition(",")[0])
            for row, options in rows
            for column in columns
        ]

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`; one after the other, all parts."""
        start = time.perf_counter()
        values: list[float] = []
        weights: list[float] = []
        groups: list[str] = []
        results: list[EvalResult] = []
        training_s = 0.0
        parts = self.parts()
        for part in parts:
            task = part.tasks[cell.column]
            questions = task.pick(self.num_questions)
            waiting = time.perf_counter()
            system, seconds = self._system(cell, part)
            if seconds:  # as long as it took, now or before
                start += time.perf_counter() - waiting
            training_s += seconds
            found = evaluate(
                self.model,
                self.renderer,
                system,
                task,
                max_new_tokens=self.max_new_tokens,
                num_questions=self.num_questions,
                progress=True,
                **self.asking,
            )
            worth = self.values(found, questions)
            values += worth["values"]
            weights += worth.get("weights", ())
            groups += [one.group or part.name for one in questions]
            results.append(found)
        facts: dict[str, Any] = {"training_s": training_s, "prefill_s": sum(one.prefill_s for one in results)}
        facts["replies"] = [reply.reply for one in results for reply in one.replies][:8]
        if len(set(groups)) > 2:
            over = clustered(values, weights=weights or None, clusters=groups)
            facts["standard_error_over_groups"] = over.standard_error
        return Measured(
            values=tuple(values),
            weights=tuple(weights) or None,
            num_kv_tokens=round(fmean(one.num_kv_tokens for one in results)),
            kv_bytes=round(fmean(one.kv_bytes for one in results)),
            facts=facts,
            seconds=time.perf_counter() - start + training_s,
            **self.together(values, results),
        )

    def _system(self, cell: Cell, part: Part) -> tuple[System, float]:
        """What stands in front of the questions, kept for the row's other columns, and the seconds of its training."""
        key = (cell.row, part.name)
        if self._read is None or self._read[0] != key:
            self._read = None  # so that one prefix is in memory
            seconds = 0.0
            if "system" not in cell.options:
                place, seconds = self.made(part, cell)
                cartridge = Cartridge.from_pretrained(str(place))
                system = of_cartridge(cell.row, cartridge, self.model)
            else:
                corpus_ids = part.corpus(**part.corpus_options).token_ids(self.renderer.tokenizer)
                asked = [one for task in part.tasks.values() for one in task.pick(self.num_questions)]
                reserve = reserve_tokens(self.renderer, asked, self.max_new_tokens)
                sizes = Sizes(reserve_tokens=reserve, max_context_tokens=self.max_context_tokens)
                given = SystemInput(
                    model=self.model, renderer=self.renderer, corpus_ids=corpus_ids, sizes=sizes
                )
                system = self.systems[cell.options["system"]].read(given)
            self._read = (key, system, seconds)
        return self._read[1:]

    def made(self, part: Part, cell: Cell) -> tuple[Path, float]:
        """The folder of a row's cartridge about a part, and the seconds that it took."""
        return self.train(part, cell.options["num_tokens"], name=f"{part.name}_{cell.options['num_tokens']}")

    def train(
        self, part: Part, size: int, *, name: str, seed: int | None = None, more: Sequence[str] = ()
    ) -> tuple[Path, float]:
        """``fit`` with the table's settings and ``more``, in the training folder ``name``; see `made`."""
        place, seed = self.folder / "trainings" / name, self.seed if seed is None else seed
        options = {
            "seed_everything": seed,
            "model.model": self.model_name,
            "model.num_tokens": size,
            "model.seed": seed,
            "data.seed": seed,
            "data.system_template": self.system_template,
            "trainer.default_root_dir": place,
            "trainer.accelerator": "cpu" if self.device == "cpu" else "auto",
        }
        if self.steps is not None:
            options["trainer.max_steps"] = self.steps
        typed = [f"--{name}={value}" for name, value in options.items()]
        made = place / "cartridge"
        seconds = self.command(
            made,
            "fit",
            f"--config={self.recipe}",
            "--trainer.callbacks=[]",
            *part.options(),
            *typed,
            *self.fit,
            *more,
        )
        return made, seconds

    @cached_property
    def model(self) -> Any:
        return load_model(self.model_name, device=self.device, dtype=self.dtype)

    @cached_property
    def renderer(self) -> ChatRenderer:
        return ChatRenderer(
            load_tokenizer(self.model_name),
            system_template=self.system_template,
            enable_thinking=self.enable_thinking,
        )
