"""Rows of unequal length keep their keys and values while others enter, leave and move."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lit_cartridges.attention.rows_cache import RowsCache


def test_it_is_a_list_of_rows_that_grow_move_and_are_written_over():
    torch.manual_seed(0)
    cache, rows = RowsCache(2), []

    def new(tokens: int) -> torch.Tensor:
        return torch.randn(1, 3, tokens, 4)

    def enter(lengths: list[int]) -> None:
        first = len(rows)
        cache.reserve(first + len(lengths), max(lengths), most=200)
        numbers = torch.tensor([first + i for i, n in enumerate(lengths) for _ in range(n)])
        cache.write(numbers, torch.cat([torch.arange(n) for n in lengths]))
        packed = new(sum(lengths))
        for layer in range(2):
            key, value = cache.update(packed + layer, -packed - layer, layer)
            assert torch.equal(key, packed + layer) and torch.equal(value, -packed - layer)
        rows.extend(packed[0].split(lengths, dim=1))

    def step() -> None:
        reach = 1 + max(row.shape[1] for row in rows)
        cache.reserve(len(rows), reach, most=200)
        cache.write(
            torch.arange(len(rows)), torch.tensor([row.shape[1] for row in rows]), seen=(len(rows), reach)
        )
        token = torch.randn(len(rows), 3, 1, 4)
        rows[:] = [torch.cat([row, one], dim=1) for row, one in zip(rows, token, strict=True)]
        for layer in range(2):
            key, value = cache.update(token + layer, -token - layer, layer)
            assert key.shape == (len(rows), 3, reach, 4)
            for row, mine, negative in zip(rows, key, value, strict=True):
                assert torch.equal(mine[:, : row.shape[1]], row + layer)
                assert torch.equal(negative[:, : row.shape[1]], -row - layer)

    enter([5, 2, 7])
    for _ in range(100):  # beyond the room of the beginning
        step()
    enter([1, 90])
    step()
    longest = max(row.shape[1] for row in rows)
    cache.move([3, 4], [1, 0], longest)
    rows[:] = [rows[4], rows[3], rows[2]]
    step()
    cache.move([2, 0], [0, 2], longest + 1)  # all at once
    rows[:] = [rows[2], rows[1], rows[0]]
    step()
    enter([4])
    step()


def test_it_makes_no_more_room_than_will_be_needed():
    cache = RowsCache(1)
    for most, room in ((9, 9), (300, 74)):
        cache.reserve(2, 5 if most == 9 else 10, most=most)
        cache.write(torch.tensor([0]), torch.tensor([0]))
        cache.update(torch.ones(1, 3, 1, 4), torch.ones(1, 3, 1, 4), 0)
        assert cache.layers[0].keys.shape == (2, room, 3, 4)
    assert cache.version == 2


def test_growth_that_ended_early_leaves_what_was_there(monkeypatch):
    """By a lack of memory in the second layer; the next growth is smaller than the first layer's was."""
    cache, tokens = RowsCache(2), torch.randn(3, 2, 3, 1, 4)  # places, rows

    def write(place: int) -> list[torch.Tensor]:
        at = torch.full((2,), place)
        cache.write(torch.arange(2), at, seen=(2, place + 1))
        return [cache.update(tokens[place] + layer, tokens[place], layer)[0] for layer in range(2)]

    cache.reserve(2, 2, most=2)
    for place in range(2):
        write(place)
    grow, layer = type(cache.layers[0]).grow, cache.layers[1]

    def short(mine):
        if mine is layer:
            raise torch.OutOfMemoryError("CUDA out of memory")
        grow(mine)

    with monkeypatch.context() as full, pytest.raises(torch.OutOfMemoryError):
        full.setattr(type(layer), "grow", short)
        cache.reserve(8, 100, most=200)
    assert len(cache.layers[0].keys) == 8 and (cache.lines, cache.places) == (2, 2)
    write(1)
    cache.reserve(2, 3, most=3)
    for number, held in enumerate(write(2)):
        assert torch.equal(held, torch.cat(tokens.unbind(0), dim=2) + number)


def test_its_memory_is_free_as_soon_as_nobody_has_it():
    """Generating ends thousands of times before Python looks for circles, and each cache may be some gigabytes."""
    cache = RowsCache(2)
    cache.reserve(1, 3, most=3)
    cache.write(torch.zeros(3).long(), torch.arange(3))
    for layer in range(2):
        cache.update(torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 4), layer)
    kept = [weakref.ref(layer.keys) for layer in cache.layers]
    gc.disable()
    try:
        del cache
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
