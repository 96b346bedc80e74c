"""Cells are measured once, kept, and shown beside the paper's."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest

from lit_cartridges.errors import SettingError
from lit_cartridges.evals.statistics import Mean, clustered
from lit_cartridges.reproductions import Result, reproduce
from lit_cartridges.reproductions.drawing import Panel, Point, svg
from tests.reproductions.small_table import Small


def test_a_table_stands_beside_the_papers(tmp_path):
    result = reproduce(Small(), tmp_path, device="cpu")
    page = (tmp_path / "table.md").read_text()
    assert "| one | 0.500 ± 0.189 | 0.750 | 0.500 ± 0.189 | 10 | 1.0 kB | 8 | 2 |" in page
    assert "| nobody's |  | 0.250 |  |" in page and "| two\\| | 0.500 ± 0.189 |  | – |" in page
    assert "left out\\: two\\|, right\\: does not fit" in page and "Table &lt;1&gt;" in page
    assert Result.read(tmp_path / "result.json") == result
    assert result.settings == {"size": 4, "path": None, "fail_at": "none"} and not result.quick
    titles = [x.text for x in ET.parse(tmp_path / "plot.svg").iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["one, left: 0.5 ± 0.19", "two|, left: 0.5 ± 0.19", "one, right: 0.5 ± 0.19"]


def test_a_killed_run_goes_on(tmp_path):
    class Killed(Small):
        name = "killed"

    first, second = Killed(), Killed()
    first.fail_at = "two|left"
    with pytest.raises(KeyboardInterrupt):
        reproduce(first, tmp_path)
    (damaged,) = (tmp_path / "cells").glob("one_left*")
    damaged.write_text("{")
    reproduce(second, tmp_path)
    assert second.measured == ["oneleft", "two|left", "two|right"], "the damaged and the missing ones"


def test_other_settings_or_another_file_are_refused(tmp_path):
    file, folder = tmp_path / "questions.json", tmp_path / "run"
    file.write_text("1")
    reproduce(Small(path=file), folder)
    assert "questions.json sha256:6b86b273" in json.loads((folder / "settings.json").read_text())["path"]
    with pytest.raises(SettingError, match=r"folder=.*other settings \(size was 4 and is 5\); give another"):
        reproduce(Small(path=file, size=5), folder)
    file.write_text("2")
    with pytest.raises(SettingError, match="path was 'questions.json sha256:6b86b273"):
        reproduce(Small(path=file), folder)
    with pytest.raises(SettingError, match="size=0 must be at least 1"):
        Small(size=0)


def test_errors_are_over_questions_or_clusters():
    values = [0.0, 1.0, 0.5, 0.25]
    assert clustered(values) == Mean(pytest.approx(Mean.of(values).mean), pytest.approx(0.21348, abs=1e-5))
    assert clustered(values).standard_error == pytest.approx(Mean.of(values).standard_error)
    # Clusters of equal size: the error of their means.
    three = clustered([*values, 1.0, 0.5], clusters=["a", "a", "b", "b", "c", "c"])
    means = Mean.of([0.5, 0.375, 0.75])
    assert three == Mean(pytest.approx(means.mean), pytest.approx(means.standard_error))
    assert clustered(values, clusters=["a", "a", "b", "b"]) == Mean(pytest.approx(0.4375), None)
    # Copies of each question change nothing about what is known.
    both = clustered(values * 3, clusters=["1", "2", "3", "4"] * 3)
    assert both.standard_error == pytest.approx(clustered(values).standard_error)
    weighted = clustered([1.0, 3.0, 2.0], weights=[2.0, 1.0, 1.0])
    assert weighted.mean == pytest.approx(1.75)
    apart = (2 * -0.75 / 4, 1.25 / 4, 0.25 / 4)
    assert weighted.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(x * x for x in apart)))
    assert clustered([]) == Mean(None, None) and clustered([0.3]) == Mean(0.3, None)


def test_texts_in_a_plot_stay_texts():
    evil = '<script>alert("1")</script>\x1b[2J'
    points = [Point(x=x, y=x, error=None, name=evil, series=evil) for x in (0.0, 10.0, 1e6)]
    drawn = svg([Panel(title=evil, x_title="bytes", points=points, front=[evil])])
    assert "<script" not in drawn and "\x1b" not in drawn and "logarithmic" in drawn
    assert len(list(ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}circle"))) == 4
    assert ET.fromstring(svg([Panel(title="", x_title="", points=[])])) is not None
