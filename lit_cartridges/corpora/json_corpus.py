"""A corpus out of one field of JSON records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.files.content import one_line, parse_json
from lit_cartridges.settings import checked


class JsonCorpus(Corpus):
    """One document per record: a .json file with a list of objects (or a single one), or .jsonl with one per line.

    Records that are plain strings are documents as they stand.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson")

    @checked
    def __init__(self, *, path: str | Path, field: str = "text", encoding: str = "utf-8") -> None:
        """
        Args:
            path: a .json file, or .jsonl / .ndjson.
            field: the records' key that holds the text; dots reach into nested objects ("body.text").
            encoding: the file's character encoding.
        """
        super().__init__(path)
        self.field, self.encoding = field, encoding

    @property
    def empty_hint(self) -> str:
        return f"no record has text in field={self.field!r}"

    def documents(self) -> Iterator[Document]:
        for number, record in self._records():
            name = f"{self.path.name}[{number}]"
            yield Document(name, record if isinstance(record, str) else self._field_of(record, name))

    def _records(self) -> Iterator[tuple[int, Any]]:
        text = self._read(self.path, self.encoding)
        if self.path.suffix.lower() == ".json":
            if text.strip():
                content = self._parse(text, "the file")
                yield from enumerate(content if isinstance(content, list) else [content])
            return
        # split, not splitlines: a JSON string may hold line separators other than \n as they are.
        for number, line in enumerate(text.split("\n")):
            if line.strip():
                yield number, self._parse(line, f"line {number + 1}")

    def _parse(self, text: str, where: str) -> Any:
        try:
            return parse_json(text, strict=False)  # other fields are not read
        except ValueError as error:
            raise CorpusError(
                f"path={str(self.path)!r}: {where} is no JSON ({error}); .json holds one list, .jsonl one "
                "record per line"
            ) from error

    def _field_of(self, record: Any, name: str) -> str:
        value = record
        for key in self.field.split("."):
            if not isinstance(value, dict) or key not in value:
                there = one_line(sorted(value)) if isinstance(value, dict) else type(value).__name__
                raise CorpusError(
                    f"path={str(self.path)!r}: field={self.field!r} is not in {name}; set field to one of what is there: {there}"
                )
            value = value[key]
        if not isinstance(value, str):
            raise CorpusError(
                f"path={str(self.path)!r}: field={self.field!r} of {name} must be text, got {type(value).__name__}"
            )
        return value
