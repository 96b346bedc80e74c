"""QuALITY (arXiv 2112.08608): multiple-choice questions about articles of some thousand words. The user brings its .jsonl file.

A line has ``article_id``, ``article`` and ``questions``: ``question``, four ``options``, ``gold_label`` counted from 1. Two lines
may be about one article, with different questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.choice_styles import STYLES
from lit_cartridges.evals.tasks.choices import LETTERS
from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import is_text, one_line
from lit_cartridges.settings import ReadFile, checked


@dataclass(frozen=True)
class Article:
    """One article; questions are (question, options, place of the right one)."""

    text: str
    questions: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)


class Quality(EvalTask):
    """The questions about some articles.

    Args:
        path: the file.
        articles: ids such as "52845"; all by default. The corpus must hold the same ones.
        style: how they are asked and graded: by "letters", as in "cartridges" (arXiv 2506.06266) or in "attention_matching"
            (arXiv 2602.16284).
    """

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        articles: Sequence[str | int] | None = None,
        style: Literal["letters", "cartridges", "attention_matching"] = "letters",
    ) -> None:
        self._articles, self.style = read_articles(path, articles), style

    def questions(self) -> Sequence[EvalQuestion]:
        style = STYLES[self.style]
        return [
            EvalQuestion(
                prompt=style.prompt("", question, options),
                answer=style.answer(options[right], LETTERS[right]),
                choices=options,
                values=(LETTERS[right],),
                group=name,
            )
            for name, article in self._articles.items()
            for question, options, right in article.questions
        ]

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """See `EvalTask.is_right`; by the style."""
        chosen = STYLES[self.style].chosen(reply, question.choices)
        return chosen is not None and LETTERS[chosen] == question.values[0]


class QualityCorpus(Corpus):
    """Some articles, one document each; arguments as for `Quality`."""

    @checked
    def __init__(self, *, path: str | Path, articles: Sequence[str | int] | None = None) -> None:
        super().__init__(path)
        self.articles = articles

    @cached_property
    def _articles(self) -> dict[str, Article]:
        return read_articles(self.path, self.articles)

    def documents(self) -> Iterator[Document]:
        for name, article in self._articles.items():
            yield Document(name, article.text)


def read_articles(path: str | Path, articles: Sequence[str | int] | None = None) -> dict[str, Article]:
    """The chosen articles by id, in the file's order.

    Raises:
        EvalError: the file is missing or of another layout, or has no such article.
    """
    known: dict[str, Article] = {}
    for where, record in read_records(Path(path)):
        try:
            name, text, questions = _article(record)
        except ValueError as error:
            raise EvalError(f"path={str(path)!r}: {where} is not in QuALITY's layout: {error}") from error
        known.setdefault(name, Article(text)).questions.extend(questions)
    if not known:
        raise EvalError(f"path={str(path)!r} holds no articles")
    wanted = None if articles is None else [str(name) for name in articles]
    unknown = [name for name in wanted or () if name not in known]
    if unknown or wanted == []:
        raise EvalError(f"articles={wanted} are not in {path}; it has {one_line(', '.join(known))}")
    return {name: article for name, article in known.items() if wanted is None or name in wanted}


def _article(record: Any) -> tuple[str, str, list[tuple[str, tuple[str, ...], int]]]:
    name, text, asked = (_of(record, key) for key in ("article_id", "article", "questions"))
    if not (is_text(name) and is_text(text) and str(text).strip() and isinstance(asked, list)):
        raise ValueError("article_id, article or questions is missing or of another kind")
    questions = []
    for number, one in enumerate(asked):
        question, options, gold = (_of(one, key) for key in ("question", "options", "gold_label"))
        texts = [question, *options] if isinstance(options, list) else [None]
        if not all(is_text(x) for x in texts) or not isinstance(gold, int) or not 1 <= gold <= len(texts) - 1:
            raise ValueError(f"question {number} has no question, options and gold_label within them")
        questions.append((str(question), tuple(map(str, texts[1:])), gold - 1))
    return str(name), str(text), questions


def _of(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None
