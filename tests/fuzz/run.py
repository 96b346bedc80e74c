"""Spoils files of every kind by numbers, reads them, and counts how that ends."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.reader import WRONG, Outcome, Reader

RIGHT = ("equal", "differs", "refused")


@dataclass
class Tally:
    """Outcomes by kind, and each wrong one with the number that makes it again."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[tuple[int, str, Outcome]] = field(default_factory=list)

    def add(self, number: int, kind: str, outcome: Outcome) -> None:
        """Count one file."""
        self.counts.setdefault(kind, Counter())[outcome.how] += 1
        if outcome.how not in RIGHT:
            self.wrong.append((number, kind, outcome))

    def table(self) -> str:
        """A line a kind, and their sum."""
        columns = (*RIGHT, *WRONG)
        total: Counter[str] = sum(self.counts.values(), Counter())
        rows = [("kind", "files", *columns)]
        for name, counts in [*self.counts.items(), ("all", total)]:
            rows.append((name, f"{counts.total():,}", *(str(counts[how] or "·") for how in columns)))
        width = max(len(row[0]) for row in rows)
        return "\n".join(row[0].ljust(width) + "".join(cell.rjust(9) for cell in row[1:]) for row in rows)


def fuzz(folder: Path, numbers: Sequence[int], *, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> Tally:
    """Spoil and read the files of these numbers; (seed, number) decides each, kinds come in turn.

    Args:
        folder: an empty one, for the files.
    """
    tally, reader = Tally(), Reader(kinds)
    whole: dict[int, tuple[Path, str]] = {}
    try:
        for number in numbers:
            index = number % len(kinds)
            kind = kinds[index]
            master = folder / str(index)
            if index not in whole:
                master.mkdir()
                place = kind.make(master)
                told = reader.read(index, place, None, forged=False)
                assert told.how == "equal", f"{kind.name}: a whole file is not read: {told}"
                whole[index] = place.relative_to(master), told.told
            forged = copy_spoilt(kind, master, folder / "spoilt", random.Random(f"{seed}/{number}"))
            place, content = whole[index]
            tally.add(
                number, kind.name, reader.read(index, folder / "spoilt" / place, content, forged=forged)
            )
    finally:
        reader.close()
    return tally


def copy_spoilt(kind: Kind, master: Path, folder: Path, draw: random.Random) -> bool:
    """A copy of the whole files with one of them spoilt; returns whether it is forged, as in `Kind`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(master, folder)
    ways = [(end, how, False) for end, all_ways in kind.spoilt.items() for how in all_ways]
    ways += [(end, how, True) for end, all_ways in kind.forged.items() for how in all_ways]
    end, how, forged = draw.choice(ways)
    (file,) = (path for path in folder.rglob("*") if path.is_file() and path.name.endswith(end))
    file.write_bytes(how(file.read_bytes(), draw))
    return forged
