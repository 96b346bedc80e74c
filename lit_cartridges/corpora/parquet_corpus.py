"""A corpus out of one column of Parquet files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.files.content import one_line
from lit_cartridges.settings import checked
from lit_cartridges.terminal import printable_line

_tell = rank_zero_only(logging.getLogger(__name__).warning)
_BATCH_ROWS = 1024


class ParquetCorpus(Corpus):
    """One document per row of a .parquet file, or of all of them below a folder in the order of their paths.

    Rows without a text (null) are left out, and told. Files are read a batch of rows at a time, and no other column.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    _told_nulls = False

    @checked
    def __init__(self, *, path: str | Path, column: str = "text") -> None:
        """
        Args:
            path: the file or the folder.
            column: the one that holds the text; dots reach into nested ones ("body.text").
        """
        super().__init__(path)
        self.column = column

    @property
    def empty_hint(self) -> str:
        return f"no row has text in column={self.column!r}"

    def documents(self) -> Iterator[Document]:
        if not self.path.is_dir():
            yield from self._rows([(self.path, self.path.name)])
            return
        files = sorted(file for file in self.path.rglob("*.parquet") if not hidden(file, self.path))
        if not files:
            raise CorpusError(f"path={str(self.path)!r}: the folder holds no .parquet file")
        yield from self._rows((file, file.relative_to(self.path).as_posix()) for file in files)

    def _rows(self, files: Iterable[tuple[Path, str]]) -> Iterator[Document]:
        """The documents of files, each with its name for people."""
        nulls = 0
        for file, name in files:
            for number, text in enumerate(self._texts(file, name)):
                if text is None:
                    nulls += 1
                else:
                    yield Document(f"{name}[{number}]", text)
        if nulls and not self._told_nulls:
            self._told_nulls = True
            _tell(
                "corpus %s: left out %s rows without a text (null)", printable_line(self.path), f"{nulls:,}"
            )

    def _texts(self, file: Path, name: str) -> Iterator[str | None]:
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as opened:
                path = self._column_path(opened.schema_arrow, name)
                for batch in opened.iter_batches(batch_size=_BATCH_ROWS, columns=[".".join(path)]):
                    values = batch.column(path[0])
                    for part in path[1:]:
                        values = pc.struct_field(values, part)
                    yield from values.to_pylist()
        except CorpusError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorpusError(
                f"path={str(self.path)!r}: {one_line(name)} cannot be read as Parquet ({one_line(error)})"
            ) from error

    def _column_path(self, schema: pa.Schema, name: str) -> list[str]:
        """The column's name, and those of the fields inside of it."""
        path = [self.column] if self.column in schema.names else self.column.split(".")
        kind: Any = pa.struct(list(schema))
        for part in path:
            there = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
            if part not in there:
                raise CorpusError(
                    f"path={str(self.path)!r}: column={self.column!r} is not in {one_line(name)}; set column to one of what is "
                    f"there: {one_line(', '.join(f'{key} ({one})' for key, one in there.items()) or 'nothing')}"
                )
            kind = there[part]
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            texts = [field.name for field in schema if pa.types.is_string(field.type)]
            raise CorpusError(
                f"path={str(self.path)!r}: column={self.column!r} of {one_line(name)} must be text, and is {one_line(kind)}; "
                f"columns of text are {one_line(', '.join(texts) or 'none')}"
            )
        return path


def hidden(file: Path, folder: Path) -> bool:
    """Whether the file, or a folder between it and ``folder``, is hidden."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
