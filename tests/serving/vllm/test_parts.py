"""What vLLM's processes do with a cartridge, on plain tensors: which positions and heads go where, and what stays open."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lit_cartridges.serving.vllm.placement import heads_of, slots
from lit_cartridges.serving.vllm.spool import OpenCartridges, spool_file, write_spooled
from lit_cartridges.serving.vllm.wanted import Load, Wanted, params

LAYERS, HEADS, DIM = 3, 4, 8


def spooled(folder, name: str, *, tokens: int, seed: int = 0):
    """Keys and values of a cartridge that is now in the spool."""
    torch.manual_seed(seed)
    keys, values = ([torch.randn(HEADS, tokens, DIM) for _ in range(LAYERS)] for _ in range(2))
    write_spooled(spool_file(folder, name), keys, values)
    return keys, values


@pytest.mark.parametrize(("start", "stop"), [(0, 21), (0, 24), (16, 21), (5, 6), (0, 1)])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_every_position_lies_in_its_block(tmp_path, start, stop, processes):
    keys, values = spooled(tmp_path, "a", tokens=24)
    block_ids, size = [9, 2, 5, 7], 8
    for rank in range(processes):
        heads = heads_of(rank, processes=processes, heads=HEADS)
        cache = torch.full((2, 10, size, heads.stop - heads.start, DIM), torch.nan)
        first, places = slots(block_ids, block_size=size, start=start, stop=stop)
        assert first == start and places.dtype == torch.int64
        read = OpenCartridges(tmp_path, max_bytes=10**9).read("a", 1, start=first, stop=stop, heads=heads)
        for side, numbers in enumerate(read):
            cache[side].flatten(0, 1)[places] = numbers
        for position in range(start, stop):
            written = cache[:, block_ids[position // size], position % size]
            for head in range(heads.stop - heads.start):
                of_all = (heads.start + head) if processes <= HEADS else rank // (processes // HEADS)
                assert torch.equal(written[0, head], keys[1][of_all, position])
                assert torch.equal(written[1, head], values[1][of_all, position])
        assert int((~cache[0, ..., 0, 0].isnan()).sum()) == stop - start, "and nothing else is written"


def test_what_a_window_has_passed_is_skipped():
    first, places = slots([0, 0, 0, 4, 6, 8], block_size=32, start=0, stop=163)
    assert first == 96 and places[0] == 4 * 32 and places[-1] == 8 * 32 + 2 and len(places) == 67
    first, places = slots([0, 0, 3], block_size=32, start=0, stop=64)
    assert first == 64 and len(places) == 0


def test_blocks_that_cannot_be_right_are_refused():
    with pytest.raises(ValueError, match="hold no position 64"):
        slots([1, 2], block_size=32, start=0, stop=65)
    with pytest.raises(ValueError, match="has no block"):
        slots([1, 0, 2], block_size=32, start=0, stop=65)


def test_the_scheduler_is_told_what_is_left_to_load():
    wanted, given = Wanted(), params("a", 150)
    assert wanted.matched(given, prompt_tokens=170, computed=0) == 150
    assert wanted.matched(given, prompt_tokens=170, computed=128) == 22
    assert wanted.matched(given, prompt_tokens=170, computed=160) == 0
    wanted.allocated(given, prompt_tokens=170, external=22, block_ids=([1, 2], [0, 3]))
    wanted.allocated(given, prompt_tokens=170, external=0, block_ids=([4, 5],))
    assert wanted.take() == [Load("a", 128, 150, ((1, 2), (0, 3)))] and wanted.take() == []


@pytest.mark.parametrize(
    "given", [None, {}, {"lit_cartridge_tokens": 9}, {"lit_cartridge": "a", "lit_cartridge_tokens": "9"}]
)
def test_requests_without_a_cartridge_are_left_alone(given):
    wanted = Wanted()
    assert wanted.matched(given, prompt_tokens=20, computed=0) == 0
    wanted.allocated(given, prompt_tokens=20, external=0, block_ids=([1],))
    assert wanted.take() == []


def test_one_token_is_left_to_compute_whatever_is_asked_for():
    """More would be an assertion in the scheduler, which ends the engine."""
    wanted, given = Wanted(), params("a", 150)
    assert wanted.matched(given, prompt_tokens=150, computed=0) == 149
    assert wanted.matched(params("a", 10**9), prompt_tokens=150, computed=128) == 21
    assert wanted.matched(params("a", -3), prompt_tokens=150, computed=0) == 0


def test_the_files_that_were_used_last_stay_open(tmp_path):
    for at, name in enumerate("abc"):
        spooled(tmp_path, name, tokens=16, seed=at)
    size = spool_file(tmp_path, "a").stat().st_size
    held = OpenCartridges(tmp_path, max_bytes=2 * size)

    def read(name: str):
        return held.read(name, 0, start=0, stop=4, heads=slice(0, 1))[0]

    first = read("a")
    read("b")
    read("a")
    read("c")
    assert held.names == ["a", "c"]
    spool_file(tmp_path, "a").unlink()
    assert torch.equal(read("a"), first), "an open file stays readable"
    with pytest.raises(FileNotFoundError):
        read("d")
    assert held.names == ["c", "a"]
    alone = OpenCartridges(tmp_path, max_bytes=10)
    alone.read("b", 0, start=0, stop=4, heads=slice(0, 1))
    alone.read("c", 0, start=0, stop=4, heads=slice(0, 1))
    assert alone.names == ["c"], "one alone may be larger"


def test_a_file_that_holds_less_is_refused(tmp_path):
    spooled(tmp_path, "a", tokens=16)
    held = OpenCartridges(tmp_path, max_bytes=10**9)
    for layer, stop, heads in [(0, 17, slice(0, 4)), (0, 16, slice(3, 5)), (LAYERS, 16, slice(0, 4))]:
        with pytest.raises(Exception, match="positions|heads|does not contain|out of"):
            held.read("a", layer, start=0, stop=stop, heads=heads)
    spool_file(tmp_path, "cut").write_bytes(spool_file(tmp_path, "a").read_bytes()[:-5])
    with pytest.raises(Exception, match="[Ii]ncomplete|invalid"):
        held.read("cut", 0, start=0, stop=1, heads=slice(0, 1))


def test_vllms_environment_needs_nothing_of_ours():
    """Neither Parquet nor Lightning nor a model library: what the connector imports of this package, it imports there."""
    code = (
        "import sys; from lit_cartridges.serving.vllm import placement, spool, wanted; "
        "found = {m.partition('.')[0] for m in sys.modules}; "
        "print(sorted(found & {'pyarrow', 'lightning', 'transformers', 'jsonargparse', 'httpx', 'starlette'}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
