"""Questions that need two documents, in HotpotQA's JSON layout (arXiv 1809.09600), whose file the user brings.

A list of records with ``question``, ``answer`` and ``context``: documents as [title, [sentences]], of which two are needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cartridges.evals.generators.documents import DocumentQuestion
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.files.content import is_text, one_line, parse_json


def read_hotpot(path: str | Path) -> tuple[list[str], list[DocumentQuestion]]:
    """All documents of the file, each once, and its questions; a question's whole context is what it needs.

    Raises:
        EvalError: the file is missing or of another layout.
    """
    numbers: dict[str, int] = {}
    try:
        content = parse_json(Path(path).read_bytes())
        if not isinstance(content, list) or not content:
            raise ValueError("it is no list of records")
        known = [_question(one, f"record {i}", numbers) for i, one in enumerate(content)]
    except (OSError, ValueError) as error:
        raise EvalError(
            f"path={str(path)!r} is not in HotpotQA's layout ({one_line(error)}); give its dev set with distractors"
        ) from error
    return list(numbers), known


def _question(value: Any, where: str, numbers: dict[str, int]) -> DocumentQuestion:
    """``numbers`` gets the documents that are new."""
    value = value if isinstance(value, dict) else {}
    question, answer, context = (value.get(key) for key in ("question", "answer", "context"))
    if not all(is_text(text) and str(text).strip() for text in (question, answer)):
        raise ValueError(f"{where} has no question and answer")
    if not isinstance(context, list) or not context or not all(map(_is_document, context)):
        raise ValueError(f"{where} has no context of documents [title, [sentences]]")
    texts = [f"{title}\n{''.join(sentences)}" for title, sentences in context]
    needs = dict.fromkeys(numbers.setdefault(text, len(numbers)) for text in texts)
    return DocumentQuestion(str(question), (str(answer),), tuple(needs))


def _is_document(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and is_text(value[0])
        and isinstance(value[1], list)
        and all(map(is_text, value[1]))
    )
