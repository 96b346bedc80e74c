"""QASPER (arXiv 2105.03011) as Cartridges (arXiv 2506.06266) score it: how likely right answers are, word by word.

The user brings two files: the papers in QASPER's own layout (a .json object of papers by id: ``title``, ``abstract``,
``full_text`` of {section_name, paragraphs}), and questions that say which paper they are about, with succinct answers:
{question, answer}, one a line of a .jsonl file, as HF's sabrieyuboglu/qasper-rewrite-gpt-4.1 has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import is_text, one_line, parse_json
from lit_cartridges.settings import ReadFile, checked

PAPERS = (
    *(
        "1908.06606",
        "1704.05572",
        "1905.08949",
        "1808.09920",
        "1603.01417",
        "1808.03986",
        "1907.08501",
        "1603.07044",
    ),
    *(
        "1903.00172",
        "1912.01046",
        "1909.00542",
        "1811.08048",
        "2004.02393",
        "1703.06492",
        "1607.06275",
        "1703.04617",
    ),
)
"""The sixteen papers that Cartridges ask about."""


class Qasper(EvalTask):
    """Questions about papers, with their answers in tags, which count as parts of the answers.

    Args:
        path: the questions.
    """

    @checked
    def __init__(self, *, path: ReadFile) -> None:
        self._questions = []
        for where, record in read_records(path):
            question, answer = (_text(record, key) for key in ("question", "answer"))
            if not (question and answer):
                raise EvalError(f"path={str(path)!r}: {where} has no texts question and answer")
            self._questions.append(
                EvalQuestion(prompt=_prompt(question), answer=f"<answer>\n{answer}\n</answer>")
            )

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions


class QasperCorpus(Corpus):
    """Some papers, one document each.

    Args:
        path: the file of papers.
        papers: their ids; those of arXiv 2506.06266 by default.
    """

    @checked
    def __init__(self, *, path: str | Path, papers: Sequence[str] = PAPERS) -> None:
        super().__init__(path)
        self.papers = list(papers)
        self._known  # noqa: B018  read it now, so that a bad file fails early

    @cached_property
    def _known(self) -> dict[str, Any]:
        where = f"path={str(self.path)!r}"
        try:
            content = parse_json(self.path.read_bytes(), strict=False)
        except (OSError, ValueError) as error:
            raise EvalError(f"{where} cannot be read: {one_line(error)}") from error
        known = content if isinstance(content, dict) else {}
        if not self.papers or any(paper not in known for paper in self.papers):
            raise EvalError(
                f"papers={self.papers} are not all in {self.path}; it has {one_line(', '.join(map(str, known)))}"
            )
        for paper in self.papers:
            sections = known[paper].get("full_text") if isinstance(known[paper], dict) else None
            if not isinstance(sections, list) or not _text(known[paper], "title"):
                raise EvalError(f"{where}: {paper} has no title and full_text: this is not QASPER's layout")
        return known

    def documents(self) -> Iterator[Document]:
        for paper in self.papers:
            record = self._known[paper]
            parts = [_text(record, "title"), _text(record, "abstract")]
            for section in record["full_text"]:
                paragraphs = section.get("paragraphs") if isinstance(section, dict) else None
                parts += [_text(section, "section_name"), *(x for x in paragraphs or () if is_text(x))]
            yield Document(paper, "\n\n".join(part for part in parts if part.strip()))


def _text(record: Any, key: str) -> str:
    value = record.get(key) if isinstance(record, dict) else None
    return str(value).strip() if is_text(value) else ""


def _prompt(question: str) -> str:
    return (
        "Please write a succinct answer to the following question.\nYou do not need to restate the paper name or answer in "
        f"complete sentences.\n\n<question>\n{question}\n</question>\n\n"
        "Provide your answer in the following format (output nothing else):\n<answer>{your answer here}</answer>"
    )
