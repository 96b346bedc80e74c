"""Reading comprehension in SQuAD's JSON layout (arXiv 1606.05250), as XQuAD (arXiv 1910.11856) and many others have it.

Both classes read the same file, which the user brings: ``data``, a list of articles with ``title`` and ``paragraphs``, each
with ``context`` and ``qas``: ``question`` and ``answers``, whose ``text`` stands in the context at ``answer_start``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import is_text, one_line, parse_json
from lit_cartridges.settings import ReadFile, checked

Article = dict[str, Any]


class Squad(EvalTask):
    """The questions about some articles. A reply is right that is or contains one of the question's answers.

    Questions without an answer (SQuAD 2.0) are left out.

    Args:
        path: the file.
        articles: titles such as "Warsaw"; all by default. The corpus must hold the same ones.
    """

    @checked
    def __init__(self, *, path: ReadFile, articles: Sequence[str] | None = None) -> None:
        self._name = Path(path).name
        self._questions = [
            EvalQuestion(prompt=asked["question"], answer=answers[0], values=answers)
            for article in read_articles(path, articles)
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
            if (answers := tuple(dict.fromkeys(one["text"] for one in asked["answers"])))
        ]

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """See `EvalTask.is_right`; any of the answers will do."""
        return any(
            super(Squad, self).is_right(EvalQuestion(prompt=question.prompt, answer=answer), reply)
            for answer in question.values
        )

    def describe(self) -> str:
        return f"{type(self).__name__} {self._name}"


class SquadCorpus(Corpus):
    """The paragraphs of some articles, one document an article; arguments as for `Squad`."""

    @checked
    def __init__(self, *, path: str | Path, articles: Sequence[str] | None = None) -> None:
        super().__init__(path)
        self.articles = articles

    @cached_property
    def _articles(self) -> list[Article]:
        return read_articles(self.path, self.articles)

    def documents(self) -> Iterator[Document]:
        for article in self._articles:
            texts = (paragraph["context"].strip() for paragraph in article["paragraphs"])
            yield Document(article["title"], "\n\n".join((article["title"].replace("_", " "), *texts)))


def read_articles(path: str | Path, titles: Sequence[str] | None = None) -> list[Article]:
    """The chosen articles, in the file's order.

    Raises:
        EvalError: the file is missing or of another layout, an answer does not stand where it is said to, or there is no
            article of that title.
    """
    try:
        content = parse_json(Path(path).read_bytes())
        articles = [_article(one, f"data[{i}]") for i, one in enumerate(_list(content, "data", "the file"))]
    except (OSError, ValueError) as error:
        raise EvalError(f"path={str(path)!r} is not in SQuAD's layout: {one_line(error)}") from error
    known = [article["title"] for article in articles]
    if not known:
        raise EvalError(f"path={str(path)!r} holds no articles")
    if titles is not None and not titles:
        raise EvalError(f"articles=[]: name some of {one_line(', '.join(known))}, or leave it out for all")
    if unknown := [title for title in titles or () if title not in known]:
        raise EvalError(f"articles={unknown} are not in {path}; it has {one_line(', '.join(known))}")
    return [article for article in articles if titles is None or article["title"] in titles]


def _article(value: Any, where: str) -> Article:
    """Only what is used, each of its type."""
    paragraphs = []
    for i, paragraph in enumerate(_list(value, "paragraphs", where)):
        here = f"{where}.paragraphs[{i}]"
        context, asked = _text(paragraph, "context", here), []
        for j, one in enumerate(_list(paragraph, "qas", here)):
            there = f"{here}.qas[{j}]"
            answers = [_answer(x, context, there) for x in _list(one, "answers", there)]
            asked.append({"question": _text(one, "question", there), "answers": answers})
        paragraphs.append({"context": context, "qas": asked})
    return {"title": _text(value, "title", where), "paragraphs": paragraphs}


def _answer(value: Any, context: str, where: str) -> dict[str, str]:
    text = _text(value, "text", f"an answer of {where}")
    start = value.get("answer_start")
    if not isinstance(start, int) or context[start : start + len(text)] != text:
        raise ValueError(f"an answer of {where} does not stand in the context at its answer_start")
    return {"text": text}


def _list(value: Any, key: str, where: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{where} has no list {key!r}")
    return found


def _text(value: Any, key: str, where: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not is_text(found) or not str(found).strip():
        raise ValueError(f"{where} has no text {key!r}")
    return str(found)
