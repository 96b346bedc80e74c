"""LongHealth: 20 fictional patients' clinical records, 20 multiple-choice questions about each (arXiv 2401.14490).

Both classes read ``benchmark_v5.json`` of its repository, which the user downloads: patients by id, each with
``name``, ``birthday``, ``diagnosis``, ``texts`` by id, and ``questions`` with ``question``, ``answer_a`` to
``answer_e`` and ``correct``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.choices import with_choices
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import named, one_line, parse_json
from lit_cartridges.settings import ReadFile, checked

_OPTIONS = ("answer_a", "answer_b", "answer_c", "answer_d", "answer_e")
_PATIENT_FIELDS = {"name": str, "birthday": str, "diagnosis": str, "texts": dict, "questions": list}


class LongHealth(EvalTask):
    """The questions about some patients, each opened by who the patient is, since the corpus holds several.

    Args:
        path: ``benchmark_v5.json``.
        patients: ids such as "patient_01"; all by default. The corpus must hold the same ones.
    """

    @checked
    def __init__(self, *, path: ReadFile, patients: Sequence[str] | None = None) -> None:
        self._path, self._patients = str(path), read_patients(path, patients)
        self.questions()

    def questions(self) -> Sequence[EvalQuestion]:
        return [
            _question(f"path={self._path!r}: {key}, question {number}", key, patient, record)
            for key, patient in self._patients.items()
            for number, record in enumerate(patient["questions"])
        ]


class LongHealthCorpus(Corpus):
    """The records of some patients, one document each; arguments as for `LongHealth`."""

    @checked
    def __init__(self, *, path: str | Path, patients: Sequence[str] | None = None) -> None:
        super().__init__(path)
        self.patients = patients

    @cached_property
    def _patients(self) -> dict[str, Any]:
        return read_patients(self.path, self.patients)

    def documents(self) -> Iterator[Document]:
        for key, patient in self._patients.items():
            for name, text in patient["texts"].items():
                yield Document(f"{key}/{name}", f"{_who(key, patient)}\nRecord {name}:\n{text}")


def read_patients(path: str | Path, patients: Sequence[str] | None = None) -> dict[str, Any]:
    """The chosen patients by id, in the file's order.

    Raises:
        EvalError: the file is missing or not LongHealth's, or has no patient of that id.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise EvalError(
            f"path={str(path)!r} cannot be read ({one_line(error)}); give benchmark_v5.json of github.com/kbressem/LongHealth"
        ) from error
    known = (
        {key: value for key, value in content.items() if isinstance(value, dict)}
        if isinstance(content, dict)
        else {}
    )
    lacking = [
        f"{key} has no {name}"
        for key, value in known.items()
        for name, kind in _PATIENT_FIELDS.items()
        if not isinstance(value.get(name), kind)
    ] + [
        f"the texts of {key} are no texts"
        for key, value in known.items()
        if isinstance(value.get("texts"), dict)
        and not all(isinstance(x, str) for x in value["texts"].values())
    ]
    if not known or lacking:
        raise EvalError(
            f"path={str(path)!r} is not LongHealth's: {lacking[0] if lacking else 'it holds no patients'}"
        )
    if patients is not None and not patients:
        raise EvalError(f"patients=[]: name some of {', '.join(known)}, or leave it out for all")
    unknown = [key for key in patients or () if key not in known]
    if unknown:
        raise EvalError(f"patients={unknown} are not in {path}; it has {', '.join(known)}")
    return {key: value for key, value in known.items() if patients is None or key in patients}


def _question(where: str, key: str, patient: dict[str, Any], record: dict[str, Any]) -> EvalQuestion:
    if not isinstance(record, dict):
        raise EvalError(f"{where} is no object: this is not LongHealth's layout")
    if missing := [name for name in ("question", *_OPTIONS, "correct") if name not in record]:
        raise EvalError(f"{where} has no {', '.join(missing)}: this is not LongHealth's layout")
    choices = tuple(str(record[name]) for name in _OPTIONS)
    correct = str(record["correct"]).strip()
    letters = [letter for letter, choice in zip("ABCDE", choices, strict=True) if choice.strip() == correct]
    if not letters and correct.removeprefix("answer_").upper() in tuple("ABCDE"):
        letters = [correct.removeprefix("answer_").upper()]
    if not letters:
        raise EvalError(
            f"{where}: the right answer {named(correct)} is none of its options {one_line(list(choices))}"
        )
    prompt = with_choices(f"{_who(key, patient)}\n{record['question']}", choices)
    return EvalQuestion(prompt=prompt, answer=letters[0], choices=choices)


def _who(key: str, patient: dict[str, Any]) -> str:
    return (
        f"Patient {patient['name']} ({key}), born {patient['birthday']}, diagnosis: {patient['diagnosis']}."
    )
