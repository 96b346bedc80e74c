"""The cartridge in training beside what it shall replace: the corpus in the context."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lit_cartridges.callbacks.periodic_eval import PeriodicEval, material_of
from lit_cartridges.cartridge_files.facts import Score
from lit_cartridges.cascade.options import DEFAULT_CASCADE, CascadeOptions
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.result_file import EVALUATIONS, Evaluation
from lit_cartridges.evals.systems import (
    CARTRIDGE,
    ICL,
    NO_CONTEXT,
    TRUNCATED_ICL,
    AskedKind,
    ContextTooLong,
    Sizes,
    System,
    SystemInput,
    chosen,
    of_cartridge,
    require_room,
)
from lit_cartridges.evals.tasks.task import EvalTask
from lit_cartridges.settings import Count, PositiveInt, checked

_warn = rank_zero_only(logging.getLogger(__name__).warning)


class LongContextEval(PeriodicEval):
    """Accuracy, answer log-likelihood and seconds per answer of the cartridge beside the baselines.

    The baselines are measured once, and logged again each time so that a plot shows them as lines. Logged as
    ``eval/SYSTEM/accuracy``, ``…/accuracy_standard_error``, ``…/answer_log_likelihood``, ``…/seconds_per_answer``, and where
    the task has recorded answers ``…/teacher_divergence``. The run's ``evaluations/NAME.json`` holds the latest of each system,
    replies included.

    Args:
        task: the questions.
        every_n_steps: optimizer steps between measurements.
        systems: any of "cartridge", "icl", "truncated_icl", "no_context", "cascade", "streaming_llm"; the last two, which
            need a model with rotary positions, only where they are named. A baseline that does not fit the model's
            context is left out, with a line in the log.
        num_questions: ask so many, at even distances; all by default.
        batch_size: questions answered together.
        max_new_tokens: length at which a reply is cut.
        max_context_tokens: positions that ICL may use, if fewer than the model's ``max_position_embeddings``: those
            that it was trained on, say.
        cascade: the size of the cache of "cascade", and of "streaming_llm", which has one sub-cache in any case.
        at_start, at_end: measure before the first optimizer step, and after the last.
        name: prefix of the logged figures.

    Attributes:
        results: the latest result of each system, replies included.
    """

    @checked
    def __init__(
        self,
        *,
        task: EvalTask,
        every_n_steps: PositiveInt = 100,
        systems: Sequence[str] = (CARTRIDGE, ICL, TRUNCATED_ICL, NO_CONTEXT),
        num_questions: PositiveInt | None = None,
        batch_size: Count = 64,
        max_new_tokens: PositiveInt = 64,
        max_context_tokens: PositiveInt | None = None,
        cascade: CascadeOptions = DEFAULT_CASCADE,
        at_start: bool = False,
        at_end: bool = True,
        name: str = "eval",
    ) -> None:
        super().__init__(name=name, every_n_steps=every_n_steps, at_start=at_start, at_end=at_end)
        kinds = chosen(systems, AskedKind, with_cartridge=True)
        self._baseline_kinds = [kind for kind in kinds if not kind.needs_cartridge]
        self.task, self.systems, self.max_context_tokens = task, tuple(systems), max_context_tokens
        self.cascade = cascade
        self.num_questions, self.batch_size, self.max_new_tokens = num_questions, batch_size, max_new_tokens
        self.results: dict[str, EvalResult] = {}
        self._baselines_done = False

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Check the questions and their lengths, before the model is loaded.

        Raises:
            EvalError: the task has no questions, or they do not fit behind the cartridge.
            ValueError: the cascade does not suit the model.
        """
        if stage != "fit":
            return
        self.task.require_tokenizer(
            material_of(pl_module, self).renderer.tokenizer,
            vocab_size=pl_module.model_config.get_text_config().vocab_size,
        )
        reserve = self._reserve_tokens(pl_module)
        if CARTRIDGE in self.systems:
            require_room(pl_module.model_config, CARTRIDGE, pl_module.num_tokens, reserve)
        for kind in self._baseline_kinds:
            kind.check(pl_module.model_config, self._sizes(reserve))

    def measure(self, trainer: L.Trainer, pl_module: Any) -> dict[str, float]:
        """See `PeriodicEval`."""
        if not self._baselines_done:
            for system in self._baselines(pl_module):
                whole = self.results.get(ICL)
                if whole and system.name == TRUNCATED_ICL and system.num_kv_tokens == whole.num_kv_tokens:
                    self.results[TRUNCATED_ICL] = replace(whole, system=TRUNCATED_ICL)  # nothing was cut off
                else:
                    self.results[system.name] = self._evaluated(pl_module, system)
            self._baselines_done = True
        if CARTRIDGE in self.systems:
            system = of_cartridge(CARTRIDGE, pl_module.cartridge, pl_module.student)
            self.results[CARTRIDGE] = self._evaluated(pl_module, system)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, pl_module)
        return {
            f"{name}/{key}": value for name, r in self.results.items() for key, value in r.metrics.items()
        }

    def scores_at(self, step: int) -> list[Score]:
        """What the systems have reached, for the card of a cartridge that is saved at this optimizer step."""
        if not self.history or self.history[-1]["step"] != step:
            return []
        return [result.score() for result in self.results.values()]

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Figures and replies, for ``lit-cartridges report``."""
        data = pl_module.material
        Evaluation(
            task=self.task.describe(),
            results=tuple(self.results.values()),
            model=pl_module.model_name,
            corpus=data.corpus_name,
            corpus_tokens=len(data.corpus_ids),
            step=trainer.global_step,
        ).write(Path(trainer.default_root_dir) / EVALUATIONS / f"{self.name.replace('/', '_')}.json")

    def _baselines(self, pl_module: Any) -> Iterator[System]:
        """The systems that fit, one at a time, so that one prefix is in memory."""
        data, sizes = pl_module.material, self._sizes(self._reserve_tokens(pl_module))
        given = SystemInput(
            model=pl_module.student, renderer=data.renderer, corpus_ids=data.corpus_ids, sizes=sizes
        )
        for kind in self._baseline_kinds:
            try:
                yield kind.read(given)
            except ContextTooLong as error:
                _warn("LongContextEval leaves out %s", error)

    def _sizes(self, reserve_tokens: int) -> Sizes:
        return Sizes(
            cascade=self.cascade, reserve_tokens=reserve_tokens, max_context_tokens=self.max_context_tokens
        )

    def _evaluated(self, pl_module: Any, system: System) -> EvalResult:
        return evaluate(
            pl_module.student,
            pl_module.material.renderer,
            system,
            self.task,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            num_questions=self.num_questions,
            split=True,
        )

    def _reserve_tokens(self, pl_module: Any) -> int:
        renderer = material_of(pl_module, self).renderer
        return reserve_tokens(renderer, self.task.pick(self.num_questions), self.max_new_tokens)
