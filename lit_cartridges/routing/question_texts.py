"""Questions as texts: those that a recording holds, and those of a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.files.content import is_text, one_line, parse_json
from lit_cartridges.routing.router import RouterError

_FIELDS = ("question", "prompt", "instruction", "messages")


def recorded_questions(path: str | Path, *, corpus_sha256: str = "") -> list[str]:
    """The first question of each conversation about the corpus, none twice.

    Args:
        path: of a recording.
        corpus_sha256: of the corpus; conversations about another are left out.

    Raises:
        RecordingError: it cannot be read.
        RouterError: it holds no such question.
    """
    about = (
        one.messages[0].content.strip()
        for one in read_conversations(path)
        if one.type != "off_corpus"
        and corpus_sha256 in ("", one.metadata.get("corpus_sha256", corpus_sha256))
    )
    return _found(about, path, "no conversation about the cartridge's corpus")


def read_questions(path: str | Path) -> list[str]:
    """Texts that people may ask, none twice: of a text file its lines; of .jsonl and .json the records' ``question``,
    ``prompt``, ``instruction`` or first of ``messages``; of a recording (.parquet, or a folder of them) the first questions.

    Raises:
        RouterError: the file cannot be read, or a record holds no question; the message names the line.
        RecordingError: a recording that cannot be read.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".parquet":
        return _found((one.messages[0].content.strip() for one in read_conversations(path)), path, "nothing")
    try:
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
        if path.suffix == ".json":
            records = parse_json(text, strict=False)
            if not isinstance(records, list):
                raise ValueError("must hold a list")
            return _found(
                (_question(record, f"record {i + 1}") for i, record in enumerate(records)), path, "nothing"
            )
        lines = [(f"line {i + 1}", line) for i, line in enumerate(text.split("\n")) if line.strip()]
        if path.suffix == ".jsonl":
            texts = (_question(parse_json(line, strict=False), where) for where, line in lines)
            return _found(texts, path, "nothing")
    except (OSError, ValueError) as error:
        if isinstance(error, RouterError):
            raise
        raise RouterError(f"{path}: {one_line(error)}") from error
    return _found((line.strip() for _, line in lines), path, "nothing")


def _question(record: Any, where: str) -> str:
    known = record if isinstance(record, dict) else {"question": record}
    value: Any = next((known[name] for name in _FIELDS if known.get(name)), None)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        asked = (one.get("content") for one in value if isinstance(one, dict) and one.get("role") == "user")
        value = next(asked, None)
    if not is_text(value) or not value.strip():
        raise ValueError(f"{where} has no text under {', '.join(_FIELDS)}")
    return str(value.strip())


def _found(texts: Any, path: str | Path, nothing: str) -> list[str]:
    found = [text for text in dict.fromkeys(texts) if text]
    if not found:
        raise RouterError(f"{path} holds {nothing}")
    return found
