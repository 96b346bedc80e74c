"""RULER (arXiv 2404.06654): thirteen tasks over made texts of any length, by generators of our own.

The paper's many-questions variant is the same with more ``questions``: one long text with many needles, so that one cartridge
serves them all. qa_1 asks from a file in SQuAD's layout, qa_2 from one in HotpotQA's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from lit_cartridges.errors import SettingError, called
from lit_cartridges.evals.generators.documents import DocumentQuestion
from lit_cartridges.evals.generators.ruler import (
    ONE_QUESTION,
    QUESTION_TASKS,
    TEXT_TASKS,
    ruler_generator,
    string_match,
)
from lit_cartridges.evals.generators.words import wonderwords
from lit_cartridges.evals.tasks.generated import GeneratedCorpus, GeneratedTask, haystack_sentences, made
from lit_cartridges.evals.tasks.hotpot import read_hotpot
from lit_cartridges.evals.tasks.squad import read_articles
from lit_cartridges.evals.tasks.task import EvalQuestion
from lit_cartridges.settings import NonNegativeInt, PositiveInt, Range, ReadFile, ReadPath, Seed, checked

LengthTokens = Annotated[int, Range(least=64, most=2**24)]
RulerTask = Literal[
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
]


class Ruler(GeneratedTask):
    """The questions of one of RULER's tasks about one made text. A reply is right that states every answer (qa: any of them).

    Args:
        kind: the task.
        model: whose tokenizer counts: a Hub id, a folder, or ``package:NAME/FOLDER``.
        num_tokens: of the text, its longest question and a reply together; the chat template comes on top.
        seed, index: decide the text; the ``index``-th of a seed.
        questions_per_text: with as many needles or chains; cwe and fwe have one.
        haystack: a text file or a folder of them, for the tasks that hide needles in real sentences.
        documents: the file that qa_1 and qa_2 ask from.
    """

    @checked
    def __init__(
        self,
        *,
        kind: RulerTask,
        model: str,
        num_tokens: LengthTokens = 4096,
        seed: Seed = 0,
        index: NonNegativeInt = 0,
        questions_per_text: PositiveInt = 1,
        haystack: ReadPath | None = None,
        documents: ReadFile | None = None,
    ) -> None:
        if questions_per_text > 1 and kind in ONE_QUESTION:
            raise SettingError(
                "there is one question about such a text; leave it 1",
                questions_per_text=questions_per_text,
                kind=kind,
            )
        if haystack is None and kind in TEXT_TASKS:
            raise SettingError("needs a haystack: a text file or a folder of them", kind=kind)
        if documents is None and kind in QUESTION_TASKS:
            layout = "SQuAD" if kind == "qa_1" else "HotpotQA"
            raise SettingError(f"needs documents: a file in {layout}'s layout", kind=kind)
        texts: list[str] = []
        known: list[DocumentQuestion] = []
        if kind in QUESTION_TASKS:
            with called("documents", documents):
                texts, known = _read(kind, str(documents))
        self.title = f"{kind} {num_tokens} {seed}.{index}"
        self.generator = ruler_generator(
            kind,
            num_tokens=num_tokens,
            questions=questions_per_text,
            words=wonderwords(),
            sentences=haystack_sentences(str(haystack)) if kind in TEXT_TASKS else (),
            documents=texts,
            known=known,
        )
        self.made = made(self.generator, model, num_tokens=num_tokens, seed=f"{kind} {seed} {index}")

    def score(self, question: EvalQuestion, reply: str) -> float:
        """RULER's: the share of the answers that the reply states, or for qa whether it states any."""
        return string_match(reply, question.values, every=self.generator.every_answer)


class RulerCorpus(GeneratedCorpus):
    """The text that `Ruler` with the same settings asks about."""

    @checked
    def __init__(
        self,
        *,
        kind: RulerTask,
        model: str,
        num_tokens: LengthTokens = 4096,
        seed: Seed = 0,
        index: NonNegativeInt = 0,
        questions_per_text: PositiveInt = 1,
        haystack: ReadPath | None = None,
        documents: ReadFile | None = None,
    ) -> None:
        super().__init__(
            Ruler(
                kind=kind,
                model=model,
                num_tokens=num_tokens,
                seed=seed,
                index=index,
                questions_per_text=questions_per_text,
                haystack=haystack,
                documents=documents,
            )
        )


def _read(kind: str, path: str) -> tuple[list[str], list[DocumentQuestion]]:
    if kind == "qa_2":
        return read_hotpot(path)
    numbers: dict[str, int] = {}
    known = []
    for article in read_articles(path):
        own = [numbers.setdefault(paragraph["context"], len(numbers)) for paragraph in article["paragraphs"]]
        for number, paragraph in zip(own, article["paragraphs"], strict=True):
            near = tuple(dict.fromkeys(other for other in own if other != number))
            for one in paragraph["qas"]:
                if answers := tuple(dict.fromkeys(answer["text"] for answer in one["answers"])):
                    known.append(DocumentQuestion(one["question"], answers, (number,), near))
    return list(numbers), known
