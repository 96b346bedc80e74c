"""LongHealth: 20 fictional patients' clinical records, 20 multiple-choice questions about each (arXiv 2401.14490).

Both classes read ``benchmark_v5.json`` of its repository, which the user downloads: patients by id, each with
``name``, ``birthday``, ``diagnosis``, ``texts`` by id, and ``questions`` with ``question``, ``answer_a`` to
``answer_e`` and ``correct``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.choice_styles import STYLES
from lit_cartridges.evals.tasks.choices import LETTERS
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
        style: how they are asked and graded: by "letters"; as in "cartridges" (arXiv 2506.06266: options without letters, the
            answer in tags after a thought, the nearest option counts) or "attention_matching" (arXiv 2602.16284).
    """

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        patients: Sequence[str] | None = None,
        style: Literal["letters", "cartridges", "attention_matching"] = "letters",
    ) -> None:
        self._path, self._patients = str(path), read_patients(path, patients)
        self.style = style
        self.questions()

    def questions(self) -> Sequence[EvalQuestion]:
        return [
            _question(f"path={self._path!r}: {key}, question {number}", key, patient, record, self.style)
            for key, patient in self._patients.items()
            for number, record in enumerate(patient["questions"])
        ]

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """See `EvalTask.is_right`; by the style."""
        chosen = STYLES[self.style].chosen(reply, question.choices)
        return chosen is not None and LETTERS[chosen] == question.values[0]


class LongHealthCorpus(Corpus):
    """The records of some patients, one document each; arguments as for `LongHealth`.

    Args:
        layout: "records", or as the papers wrap them: "panel" (arXiv 2506.06266), one document a patient.
    """

    @checked
    def __init__(
        self,
        *,
        path: str | Path,
        patients: Sequence[str] | None = None,
        layout: Literal["records", "panel"] = "records",
    ) -> None:
        super().__init__(path)
        self.patients, self.layout = patients, layout

    @cached_property
    def _patients(self) -> dict[str, Any]:
        return read_patients(self.path, self.patients)

    def documents(self) -> Iterator[Document]:
        if self.layout == "panel":
            for place, (key, patient) in enumerate(self._patients.items()):
                opening = "" if place else "Below is a panel of patient records.\n\n"
                yield Document(key, opening + _panel_record(key, patient))
            return
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


def _question(
    where: str, key: str, patient: dict[str, Any], record: dict[str, Any], style: str
) -> EvalQuestion:
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
    known, about = STYLES[style], _who(key, patient) if style == "letters" else _asked_about(key, patient)
    return EvalQuestion(
        prompt=known.prompt(about, str(record["question"]), choices),
        answer=known.answer(choices[LETTERS.index(letters[0])].strip(), letters[0]),
        choices=choices,
        values=(letters[0],),
        group=key,
    )


def _who(key: str, patient: dict[str, Any]) -> str:
    return (
        f"Patient {patient['name']} ({key}), born {patient['birthday']}, diagnosis: {patient['diagnosis']}."
    )


def _asked_about(key: str, patient: dict[str, Any]) -> str:
    return (
        f"Please answer the question below about the following patient: ID {key}, Name: {patient['name']}, Birthday: "
        f"{patient['birthday']}, Diagnosis: {patient['diagnosis']}"
    )


def _panel_record(key: str, patient: dict[str, Any]) -> str:
    notes = "\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in patient["texts"].items())
    return (
        f"<patient-record-{key}>\nBelow is patient {patient['name']}'s medical record ({key}). They were born on "
        f"{patient['birthday']} and have the following diagnosis: {patient['diagnosis']}. The patients medical record consists "
        f"of {len(patient['texts'])} notes included below.\n<notes>\n{notes}\n</notes>\n</patient-record-{key}>"
    )
