"""What the commands that measure systems share: sizes refused early, what does not fit, and the file of figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from lit_cartridges.evals.systems import ContextTooLong, Sizes, SystemKind
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.terminal import printable


def require_sizes(kinds: Iterable[SystemKind], config: PretrainedConfig, sizes: Sizes) -> None:
    """Refuse what the model cannot have before it is loaded (see `SystemKind.check`)."""
    for kind in kinds:
        kind.check(config, sizes)


@contextmanager
def left_out_where_too_long() -> Iterator[None]:
    """A text that does not fit ends the block with a line, which stands in for the system's row."""
    try:
        yield
    except ContextTooLong as error:
        print(printable(f"left out {error}"))


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Whole or not at all, in a folder that is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
