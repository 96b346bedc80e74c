"""A table that measures nothing but what it is told, and counts how often."""

from __future__ import annotations

from typing import Any

from lit_cartridges.evals.systems import ContextTooLong
from lit_cartridges.reproductions import Cell, Measured, Published, Reproduction
from lit_cartridges.settings import PositiveInt, ReadFile, checked


class Small(Reproduction):
    """Two rows of two columns."""

    name, paper, metric = "small", "arXiv 0000.00000, Table 1", "share"
    published = (
        Published("one", "left", 0.75, "Table <1>"),
        Published("nobody's", "left", 0.25, "Table <1>"),
    )

    @checked
    def __init__(self, *, size: PositiveInt = 4, path: ReadFile | None = None, fail_at: str = "none") -> None:
        self.size, self.path, self.fail_at = size, path, fail_at
        self.measured: list[str] = []

    def cells(self) -> list[Cell]:
        return [Cell(row=row, column=column) for row in ("one", "two|") for column in ("left", "right")]

    def measure(self, cell: Cell) -> Measured:
        self.measured.append(cell.row + cell.column)
        if cell.row + cell.column == self.fail_at:
            raise KeyboardInterrupt
        if cell.row + cell.column == "two|right":
            raise ContextTooLong("does not fit")
        known: dict[str, Any] = {"kv_bytes": 1000, "num_kv_tokens": 10} if cell.row == "one" else {}
        return Measured(values=(0.0, 1.0) * self.size, seconds=1.5, **known)
