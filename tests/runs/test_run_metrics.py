"""One curve from the CSV files of all starts of a run."""

from __future__ import annotations

import pytest

from lit_cartridges.comparison.plan import ComparedRun
from lit_cartridges.comparison.results import Measured
from lit_cartridges.runs.run_metrics import read_metrics


def test_the_curve_of_an_interrupted_run_goes_on_where_its_checkpoint_stood(tmp_path):
    """Interrupted after step 6, and gone on from the checkpoint at step 4."""
    starts = [
        "step,init/seconds,time/training_s,eval/cartridge/accuracy\n0,0.5,,\n0,,,0.1\n1,,2.0,\n3,,4.0,\n4,,,0.2\n5,,6.0,\n",
        "step,time/training_s,eval/cartridge/accuracy\n5,1.5,\n7,3.5,\n8,,0.3\n8,3.6,\n",
    ]
    for i, text in enumerate(starts):
        folder = tmp_path / f"logs/version_{i}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    rows = read_metrics(tmp_path)
    times = [(row["step"], row["time/training_s"]) for row in rows if "time/training_s" in row]
    assert times == [(1, 2.0), (3, 4.0), (5, 5.5), (7, 7.5), (8, 7.6)]
    run = ComparedRun(
        strategy="FirstTokens",
        compression=10,
        seed=0,
        num_tokens=3,
        max_steps=8,
        folder=tmp_path,
        options=(),
    )
    one = Measured.of(run)
    assert one.accuracy == {0: 0.1, 4: 0.2, 8: 0.3}
    # Lightning's step 3 is the end of the fourth optimizer step.
    assert one.training_s == {0: 0.0, 4: 4.0, 8: pytest.approx(7.6)}
    assert one.init_s == 0.5 and one.init_peak_memory_bytes is None
