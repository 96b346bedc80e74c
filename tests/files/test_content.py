"""JSON, numbers and records out of a file that nobody vouches for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from lit_cartridges.files.content import is_text, named, one_line, parse_json, record, whole_number


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None
    loss: float | None = None
    sums: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    pair: tuple[int, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expecting value"),
        ("[1,", "Expecting value"),
        (b"\xff", "can't decode byte"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 9_000 + "1" + "}" * 9_000, "nested too deeply"),
        ("9" * 5_000, "limit"),
        ("[NaN]", "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ("1e999", "1e999 is no finite number"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'{"\udfff": 1}', "half a surrogate pair"),
    ],
)
def test_json_that_cannot_be_relied_on_is_a_value_error_of_one_line(text, told):
    with pytest.raises(ValueError, match=told) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_json_of_others_may_hold_numbers_and_text_that_are_not_looked_at():
    nan, text = parse_json(r'[NaN, "\ud800"]', strict=False)
    assert nan != nan and not is_text(text) and is_text("é") and not is_text(1)
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


def test_messages_take_one_line_and_no_page():
    assert one_line("a\n\tb  c") == "a b c"
    assert len(one_line("x" * 9_999)) == 300 and one_line(ValueError()) == "ValueError"
    assert named("a\nb") == r"'a\nb'" and named([[1]]) == "a list" and named(None) == "None"
    assert len(named("x" * 9_999)) == 60


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 2**63, 10**400, [1]])
def test_a_whole_number_is_one_and_in_range(value):
    with pytest.raises(ValueError, match="size must be a whole number from 0 up, found"):
        whole_number(value, "size")


def test_the_range_is_said():
    assert whole_number(3, "size", below=4) == 3
    with pytest.raises(ValueError, match="size must be a whole number from 1 to 3, found 4"):
        whole_number(4, "size", least=1, below=4)


def test_a_record_is_read_by_its_annotations():
    whole = {
        "name": "a",
        "inner": {"size": 1},
        "loss": 1,
        "sums": {"x": "y"},
        "counts": [1, 2],
        "pair": [3],
        "notes": {"any": [None]},
    }
    assert record(Outer, whole, "it") == Outer("a", Inner(1), 1, {"x": "y"}, [1, 2], (3,), {"any": [None]})
    assert record(Outer, {"name": ""}, "it") == Outer("")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"unheard_of": 1}, "fields that this release does not know: .*unheard_of"),
        ({"name": 1}, "it.name must be str, found 1"),
        ({"inner": {"size": "1"}}, "it.inner.size must be a whole number"),
        ({"inner": {}}, "it.inner has no size"),
        ({"inner": 3}, "it.inner must be an object, found 3"),
        ({"loss": "low"}, "it.loss must be float, found 'low'"),
        ({"loss": True}, "it.loss must be float, found True"),
        ({"sums": {"x": 1}}, r"it.sums\['x'\] must be str"),
        ({"sums": []}, "it.sums must be dict, found a list"),
        ({"counts": [1, "2"]}, r"it.counts\[1\] must be a whole number"),
        ({"notes": "none"}, "it.notes must be dict"),
    ],
)
def test_a_field_of_another_type_is_named(changed, told):
    with pytest.raises(ValueError, match=told):
        record(Outer, {"name": "a"} | changed, "it")
    with pytest.raises(ValueError, match="it has no name"):
        record(Outer, {}, "it")
    with pytest.raises(ValueError, match="it must be an object, found a list"):
        record(Outer, [], "it")
