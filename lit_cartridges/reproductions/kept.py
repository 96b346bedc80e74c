"""Parts of a cell that are kept one by one: of a cell that takes hours, no more than a part is lost, and cells share parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lit_cartridges.files.content import parse_json
from lit_cartridges.runs.atomic_files import write_atomically


def kept(folder: Path, known: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gave, now or in an earlier run; it is made again where its file is damaged.

    Args:
        folder: of the run.
        known: what decides it, beside the run's settings.
        make: gives what JSON can hold.
    """
    digest = sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / "parts" / f"{digest}.json"
    try:
        found = parse_json(place.read_bytes())["made"]
    except (OSError, ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, dict):
        found = make()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, (json.dumps({**known, "made": found}) + "\n").encode())
    return found
