"""LongBench, as the cascade's paper runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.statistics import Mean
from lit_cartridges.evals.systems import CASCADE, STREAMING_LLM
from lit_cartridges.evals.tasks.longbench import LONGBENCH_TASKS, longbench_samples
from lit_cartridges.reproductions.long_prompts import LongPrompts, Prompt
from lit_cartridges.reproductions.reproduction import SMOLLM2, Cell, Measured, Published, beside
from lit_cartridges.settings import ReadFile, ReadFolder, checked

MEAN, PERCENT = "mean", "mean, % above streaming_llm"


class LongBench(LongPrompts):
    """Six tasks of LongBench, each prompt through a cache of a quarter of its length.

    Args:
        path: the folder of LongBench's data, with a .jsonl file for each task, which you bring.
        prompts: its config/dataset2prompt.json, which you bring too; without it prompts are our own, and figures not comparable.
        tasks: columns.
    """

    name = "longbench"
    paper = "arXiv 2406.17808, LongBench (arXiv 2308.14508)"
    metric = (
        "F1 of words, or ROUGE-L for gov_report and multi_news, ×100; or percent above StreamingLLM's mean"
    )
    form = "{:.2f}"
    share = 4
    published = (
        Published(
            CASCADE, PERCENT, 12.13, "its abstract: on average, over the linear baselines; no error is given"
        ),
    )
    notes: tuple[str, ...] = (
        "Per prompt the best of its references counts. Errors are over prompts; that of the mean is over all tasks' prompts.",
        "ROUGE is the package rouge-score's, not the package rouge's.",
    )
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "sink_tokens": 4,
        "num_prompts": 2,
        "max_context_tokens": 2048,
    }

    @checked
    def __init__(
        self,
        *,
        path: ReadFolder,
        prompts: ReadFile | None = None,
        tasks: Sequence[str] = tuple(LONGBENCH_TASKS),
        **more: Any,
    ) -> None:
        super().__init__(**more)
        if not tasks or any(task not in LONGBENCH_TASKS for task in tasks):
            raise SettingError(f"must name some of {', '.join(LONGBENCH_TASKS)}", tasks=list(tasks))
        self.samples = {task: longbench_samples(path / f"{task}.jsonl", task, prompts) for task in tasks}
        if prompts is None:
            self.notes = (
                *self.notes,
                "Prompts are our own: give prompts=dataset2prompt.json for LongBench's.",
            )

    def prompts(self, kind: str) -> Sequence[Prompt]:
        """See `LongPrompts.prompts`."""
        cut = LONGBENCH_TASKS[kind].max_new_tokens
        return [Prompt(one.prompt, one.answers, cut) for one in self.samples[kind]]

    def cells(self) -> Sequence[Cell]:
        columns = [*self.samples, MEAN]
        compared = beside(STREAMING_LLM, self.systems)
        return [Cell(row=row, column=column) for row in self.systems for column in columns] + [
            Cell(row=row, column=PERCENT) for row in compared
        ]

    def measure(self, cell: Cell) -> Measured:
        tasks = [cell.column] if cell.column in self.samples else list(self.samples)
        own = {task: self._scores(cell.row, task) for task in tasks}
        every = tuple(value for values, _ in own.values() for value in values)
        seconds = sum(took for _, took in own.values()) if cell.column in self.samples else 0.0
        mean, error = _of_tasks([values for values, _ in own.values()])
        if cell.column == PERCENT:
            base = [self._scores(STREAMING_LLM, task)[0] for task in tasks]
            theirs, _ = _of_tasks(base)
            if not theirs:  # nothing to be a percent of
                return Measured(values=(), seconds=seconds)
            # The error of a ratio, from how far each prompt lies from it.
            apart = [
                [a - mean / theirs * b for a, b in zip(values, other, strict=True)]
                for (values, _), other in zip(own.values(), base, strict=True)
            ]
            error = None if (known := _of_tasks(apart)[1]) is None else 100 * known / theirs
            mean = 100 * (mean / theirs - 1)
        return Measured(values=every, mean=mean, standard_error=error, seconds=seconds)

    def _scores(self, system: str, task: str) -> tuple[list[float], float]:
        """Of each prompt, ×100, and the seconds of all."""
        found, score = self.replies(system, task), LONGBENCH_TASKS[task].score
        values = [100 * max(score(reply, answer) for answer in one.answers) for one, reply, _ in found]
        return values, sum(seconds for _, _, seconds in found)


def _of_tasks(values: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """The mean of the tasks' means, and its error where every task has one."""
    means = [Mean.of(one) for one in values]
    errors = [one.standard_error for one in means if one.standard_error is not None]
    error = math.hypot(*errors) / len(means) if len(errors) == len(means) else None
    return fmean(one.mean or 0.0 for one in means), error
