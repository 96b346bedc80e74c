"""Does the cartridge in training still answer when others are loaded beside it, and do they?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lit_cartridges.callbacks.periodic_eval import PeriodicEval, material_of
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.statistics import share_error
from lit_cartridges.evals.systems import of_cartridge, require_room
from lit_cartridges.evals.tasks.task import EvalTask
from lit_cartridges.settings import Count, PositiveInt, checked

OWN, BOTH, JOINT, COMPOSED = "own", "both", "joint", "composed"
_RESERVED = (OWN, BOTH, JOINT, COMPOSED)
_warn = rank_zero_only(logging.getLogger(__name__).warning)


@dataclass(kw_only=True)
class OtherCartridge:
    """A cartridge from disk, and questions about its corpus.

    Args:
        path: its folder, or a repository of the Hub.
        task: the questions.
        name: in the log; by default the folder's, or that of the run whose ``cartridge`` folder it is.
    """

    path: str
    task: EvalTask
    name: str = ""


class CompositionTest(PeriodicEval):
    """Composes the cartridge in training with others (arXiv 2506.06266, §5.3) and asks about each corpus.

    Logged as ``composition/CORPUS/alone/accuracy``, ``composition/CORPUS/composed/accuracy`` and so on, with CORPUS
    "own", the others' names, and "both": all these questions together, ``alone`` being each with its own corpus's
    cartridge. With ``joint_task``, questions that need several corpora at once, there is
    ``composition/joint/composed/…`` too, beside ``composition/joint/NAME/…`` for every cartridge alone. The others
    alone are measured once.

    Args:
        task: questions about the corpus in training.
        others: the cartridges to compose with, in this order behind the one in training.
        joint_task: questions that need several of the corpora.
        every_n_steps: optimizer steps between measurements.
        keep_sinks: keep every cartridge's frozen sink, not the first one's alone.
        num_questions: ask so many of each task, at even distances; all by default.
        batch_size: questions answered together.
        max_new_tokens: length at which a reply is cut.
        at_start, at_end: measure before the first optimizer step, and after the last.
        name: prefix of the logged figures.

    Attributes:
        results: the latest results by what they are logged under, replies included.
    """

    @checked
    def __init__(
        self,
        *,
        task: EvalTask,
        others: Sequence[OtherCartridge],
        joint_task: EvalTask | None = None,
        every_n_steps: PositiveInt = 100,
        keep_sinks: bool = False,
        num_questions: PositiveInt | None = None,
        batch_size: Count = 64,
        max_new_tokens: PositiveInt = 64,
        at_start: bool = False,
        at_end: bool = True,
        name: str = "composition",
    ) -> None:
        super().__init__(name=name, every_n_steps=every_n_steps, at_start=at_start, at_end=at_end)
        if not others:
            raise ValueError(
                "CompositionTest needs others=[{path, task}, …]: at least one cartridge to compose with"
            )
        self.task, self.joint_task, self.keep_sinks = task, joint_task, keep_sinks
        self.num_questions, self.batch_size, self.max_new_tokens = num_questions, batch_size, max_new_tokens
        self.others = {other.name or _name_of(other.path): other for other in others}
        names = [other.name or _name_of(other.path) for other in others]
        if len(self.others) < len(names) or set(_RESERVED) & set(names):
            raise ValueError(
                f"others have the names {names}, which must differ from each other and from "
                f"{', '.join(_RESERVED)}; give each a name"
            )
        self.results: dict[str, EvalResult] = {}
        self._cartridges: dict[str, Cartridge] = {}

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Load the others and see that all fit, before the model is loaded.

        Raises:
            ValueError: a path holds no cartridge, or one for another model; a task has no questions; all the cartridges
                with a question do not fit the model's positions. The message names what is the matter.
        """
        if stage != "fit":
            return
        for name, other in self.others.items():
            self._cartridges[name] = cartridge = Cartridge.from_pretrained(other.path)
            cartridge.require_made_for(
                pl_module.model_config, pl_module.model_name, called=f"others: {other.path}"
            )
            _warn_of_another_model(cartridge, other.path, pl_module.model_name)
        renderer = material_of(pl_module, self).renderer
        tasks = [*self._tasks.values(), *([self.joint_task] if self.joint_task else [])]
        needed = max(
            reserve_tokens(renderer, task.pick(self.num_questions), self.max_new_tokens) for task in tasks
        )
        tokens = pl_module.num_tokens + sum(cartridge.num_tokens for cartridge in self._cartridges.values())
        require_room(pl_module.model_config, "CompositionTest, all cartridges side by side", tokens, needed)

    @property
    def _tasks(self) -> dict[str, EvalTask]:
        return {OWN: self.task, **{name: other.task for name, other in self.others.items()}}

    def measure(self, trainer: L.Trainer, pl_module: Any) -> dict[str, float]:
        """See `PeriodicEval`."""
        model, own = pl_module.student, pl_module.cartridge
        cartridges = {OWN: own, **{name: c.to(model.device) for name, c in self._cartridges.items()}}
        composed = Cartridge.compose(list(cartridges.values()), keep_sinks=self.keep_sinks)
        for name, task in self._tasks.items():
            if name == OWN or f"{name}/alone" not in self.results:
                self._ask(pl_module, f"{name}/alone", cartridges[name], task)
            self._ask(pl_module, f"{name}/composed", composed, task)
        if self.joint_task is not None:
            for name, cartridge in cartridges.items():
                if name == OWN or f"joint/{name}" not in self.results:
                    self._ask(pl_module, f"joint/{name}", cartridge, self.joint_task)
            self._ask(pl_module, "joint/composed", composed, self.joint_task)
        figures = {
            f"{at}/{key}": value
            for at, result in self.results.items()
            for key, value in result.metrics.items()
        }
        for way in ("alone", "composed"):
            found = [self.results[f"{name}/{way}"] for name in self._tasks]
            figures |= {f"{BOTH}/{way}/{key}": value for key, value in _pooled(found).items()}
        return figures

    def _ask(self, pl_module: Any, at: str, cartridge: Cartridge, task: EvalTask) -> None:
        self.results[at] = evaluate(
            pl_module.student,
            pl_module.material.renderer,
            of_cartridge(at, cartridge, pl_module.student),
            task,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            num_questions=self.num_questions,
            split=True,
        )


def _pooled(results: Sequence[EvalResult]) -> dict[str, float]:
    """Figures of several tasks' questions taken together, every question counting alike."""
    questions = sum(result.num_questions for result in results)
    accuracy = sum(result.accuracy * result.num_questions for result in results) / questions
    pooled = {"accuracy": accuracy, "accuracy_standard_error": share_error(accuracy, questions)}
    for name in ("answer_log_likelihood", "seconds_per_answer"):
        if all(name in one.metrics for one in results):
            pooled[name] = sum(one.metrics[name] * one.num_questions for one in results) / questions
    return pooled


def _warn_of_another_model(cartridge: Cartridge, path: str, model_name: str) -> None:
    known = cartridge.provenance
    if known.base_model and known.base_model != model_name:
        _warn(
            "CompositionTest: %s was made for %s, and this run's model is %s",
            path,
            known.base_model,
            model_name,
        )


def _name_of(path: str) -> str:
    place = Path(path)
    return place.parent.name if place.name.startswith("cartridge") and place.parent.name else place.name
