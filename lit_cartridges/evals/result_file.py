"""An evaluation as a JSON file: figures and every reply, of one or more systems on one task.

``lit-cartridges evaluate --out`` and `LongContextEval` (``evaluations/NAME.json`` in the run's folder) write it, and
``lit-cartridges report`` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_cartridges.errors import CartridgesError
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.files.content import one_line, parse_json, record
from lit_cartridges.runs.atomic_files import write_atomically

EVALUATIONS = "evaluations"


class EvaluationFileError(CartridgesError, ValueError):
    """A file that is no evaluation of ours; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The content of the file.

    Args:
        task: what was asked, by its name.
        results: one per system.
        model: the frozen model's name.
        corpus: the corpus's name; empty where none was given.
        corpus_tokens: its length.
        off_corpus: of the same systems and the bare model, on tasks that are not about the corpus.
        step: optimizer steps that the cartridge had been trained for; None where several or none were asked.
    """

    task: str
    results: tuple[EvalResult, ...]
    model: str = ""
    corpus: str = ""
    corpus_tokens: int | None = None
    step: int | None = None
    off_corpus: tuple[EvalResult, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file, and its folder where that is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = asdict(self)
        results = known.pop("results")
        content = {name: value for name, value in known.items() if value not in (None, "", ())}
        text = json.dumps(content | {"results": results}, indent=2, ensure_ascii=False)
        write_atomically(path, (text + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read the file.

        Raises:
            EvaluationFileError: it cannot be read, or holds something else.
        """
        try:
            return cls.parse(parse_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise EvaluationFileError(
                f"{path} is no evaluation ({one_line(error)}); give what `lit-cartridges evaluate --out` wrote"
            ) from error

    @classmethod
    def parse(cls, known: Any) -> Evaluation:
        """Of the file's JSON.

        Raises:
            ValueError: it is no evaluation.
        """
        return record(cls, known, "it")


def evaluations(folder: Path) -> Sequence[Path]:
    """The evaluation files of a run, by name."""
    return sorted((folder / EVALUATIONS).glob("*.json"))
