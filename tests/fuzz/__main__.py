"""``python -m tests.fuzz``: spoil files of every kind, read them, print how that ends; status 1 where one ends wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz


def main() -> int:
    """Run by the command line; the same seed makes the same files."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=3000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides all of them (default: %(default)s)")
    parser.add_argument(
        "--only", type=int, help="the file of this number alone, as the list of wrong ones names it"
    )
    options = parser.parse_args()
    numbers = range(options.files) if options.only is None else range(options.only, options.only + 1)
    start = perf_counter()
    with TemporaryDirectory() as folder:
        tally = fuzz(Path(folder), numbers, seed=options.seed)
    print(tally.table())
    print(
        f"{len(numbers):,} files of {len(KINDS)} kinds, seed {options.seed}, {perf_counter() - start:.0f} s"
    )
    for number, kind, outcome in tally.wrong:
        print(f"wrong: --only {number} ({kind}): {outcome.how}: {outcome.told}")
    return bool(tally.wrong)


if __name__ == "__main__":
    sys.exit(main())
