"""The records of a JSON file with one list, or with one record a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.files.content import parse_json


def read_records(path: Path) -> list[tuple[str, Any]]:
    """Each record behind the words that say where it stands.

    Raises:
        EvalError: the file cannot be read, or is not JSON; it names the line.
    """
    try:
        text = path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"path={str(path)!r} cannot be read as UTF-8 text: {error}") from error
    if path.suffix.lower() == ".json":
        content = _parse(text, path, "the file")
        if not isinstance(content, list):
            raise EvalError(
                f"path={str(path)!r} must hold a list of questions, got {type(content).__name__}; "
                "one record per line belongs in a .jsonl file"
            )
        return [(f"record {i + 1}", record) for i, record in enumerate(content)]
    lines = enumerate(text.split("\n"), start=1)
    return [
        (f"line {number}", _parse(line, path, f"line {number}")) for number, line in lines if line.strip()
    ]


def _parse(text: str, path: Path, where: str) -> Any:
    try:
        return parse_json(text, strict=False)  # fields that nobody asks for may hold anything
    except ValueError as error:
        raise EvalError(f"path={str(path)!r}: {where} is no JSON ({error})") from error
