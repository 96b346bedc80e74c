"""LongBench's six tasks that the cascade's paper uses (arXiv 2308.14508), from the files that it is published as."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.files.content import is_text, one_line, parse_json
from lit_cartridges.text.scores import rouge, token_f1

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class LongBenchTask:
    """How a task is asked and scored.

    Args:
        prompt: with {context} and {input}.
        max_new_tokens: length at which a reply is cut.
        score: of a reply beside one reference, 0 to 1.
    """

    prompt: str
    max_new_tokens: int
    score: Score


@dataclass(frozen=True)
class LongBenchSample:
    """The prompt, and the references, of which the nearest counts."""

    prompt: str
    answers: tuple[str, ...]


def _rouge_l(reply: str, reference: str) -> float:
    return rouge(reply, reference, "rougeL")


_ABOUT = "Read the text and answer the question about it, as briefly as you can, with the answer alone."
_ASKED = f"{_ABOUT}\n\n{{context}}\n\n{_ABOUT}\n\nQuestion: {{input}}\nAnswer:"
_SUMMED = "Here is {what}. Write a summary of it on one page.\n\n{{context}}\n\nSummary:"

LONGBENCH_TASKS = {
    "narrativeqa": LongBenchTask(_ASKED, 128, token_f1),
    "qasper": LongBenchTask(_ASKED, 128, token_f1),
    "hotpotqa": LongBenchTask(_ASKED, 32, token_f1),
    "2wikimqa": LongBenchTask(_ASKED, 32, token_f1),
    "gov_report": LongBenchTask(_SUMMED.format(what="a report by a government agency"), 512, _rouge_l),
    "multi_news": LongBenchTask(_SUMMED.format(what="what several newspapers wrote"), 512, _rouge_l),
}


def longbench_samples(file: Path, task: str, prompts: Path | None = None) -> list[LongBenchSample]:
    """
    Args:
        file: the task's .jsonl: ``context``, ``input`` and ``answers`` in each line.
        prompts: the project's ``config/dataset2prompt.json``; without it prompts are our own.

    Raises:
        EvalError: a file cannot be read, or is of another layout; it names the line.
    """
    prompt = LONGBENCH_TASKS[task].prompt if prompts is None else _prompt(prompts, task)
    return [_sample(file, where, record, prompt) for where, record in read_records(file)]


def _prompt(file: Path, task: str) -> str:
    try:
        known = parse_json(file.read_bytes())
        prompt = known[task]
        if "{context}" not in prompt:
            raise ValueError(f"its prompt for {task} has no {{context}}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvalError(
            f"prompts={str(file)!r} holds no prompt for {task} ({one_line(error)}); give LongBench's dataset2prompt.json"
        ) from error
    return str(prompt)


def _sample(file: Path, where: str, record: Any, prompt: str) -> LongBenchSample:
    known = record if isinstance(record, dict) else {}
    answers = known.get("answers")
    told = [known.get("context"), known.get("input"), *(answers if isinstance(answers, list) else [None])]
    if not all(is_text(one) for one in told) or not answers:
        raise EvalError(
            f"path={str(file)!r}: {where} has no texts under context, input and answers; it holds {one_line(sorted(known))}"
        )
    # Each place is filled by itself: a text may hold braces of its own.
    parts = re.split(r"(\{context\}|\{input\})", prompt)
    filled = "".join(known[part[1:-1]] if part in ("{context}", "{input}") else part for part in parts)
    return LongBenchSample(filled, tuple(answers))
