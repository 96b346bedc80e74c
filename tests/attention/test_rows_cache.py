"""Rows of unequal length keep their keys and values while others enter, leave and move."""

from __future__ import annotations

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
