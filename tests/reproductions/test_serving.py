"""Serving's table: ratios and their errors from what the benchmark wrote, and the benchmark itself."""

from __future__ import annotations

import json
from math import sqrt

import pytest

from lit_cartridges.cli import main
from lit_cartridges.reproductions import Result, reproduce
from lit_cartridges.reproductions.tables.serving import WAYS, Serving

CORPUS, OWN, SHARED = WAYS


def row(way: str, rate: float, deviation: float | None, rows: int = 2) -> dict:
    known = {
        "held_tokens": 10,
        "cache_bytes": 640,
        "tokens_per_s": rate,
        "deviation_per_s": deviation,
        "runs": 4,
    }
    return {"corpus_tokens": 128, "way": way, "rows": rows, **known}


def test_tokens_per_second_become_ratios_with_the_error_of_both(tmp_path):
    rows = [row(CORPUS, 100.0, 10.0), row(OWN, 400.0, 20.0), row(SHARED, 0.0, None, rows=0)]
    (tmp_path / "serving.json").write_text(json.dumps({"throughput": rows}))
    result = reproduce(Serving(size="tiny", corpus_tokens=[128]), tmp_path, quick=True)
    figures = {one.row: one for one in result.figures}
    assert figures[CORPUS].mean == 1.0 and figures[CORPUS].standard_error is None
    assert figures[OWN].mean == 4.0 and figures[OWN].x == 128 and figures[OWN].kv_bytes == 640
    assert figures[OWN].standard_error == pytest.approx(4 * sqrt(0.1**2 / 4 + 0.05**2 / 4))
    assert figures[OWN].facts["tokens_per_s"] == 400.0 and figures[SHARED].mean is None
    page = (tmp_path / "table.md").read_text()
    assert "26.40" in page and "left out" in page


@pytest.mark.thorough
def test_it_is_measured_by_the_benchmark(tmp_path):
    main(["reproduce", "serving", "--quick", "--device=cpu", f"--folder={tmp_path / 'run'}"])
    figures = Result.read(tmp_path / "run" / "result.json").figures
    assert len(figures) == 6 and all(one.mean and one.mean > 0 for one in figures)
