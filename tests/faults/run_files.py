"""What must hold of a run's folder: after every fault, and at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml

from lit_cartridges import Cartridge
from lit_cartridges.conversations.parquet import is_readable, read_conversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.runs.checkpoint_files import problem


def check_readable(folder: Path) -> int:
    """Every file under its final name is whole; returns their number."""
    checked = 0
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith(".") or "logs" in path.parts:
            continue
        if path.suffix == ".ckpt":
            assert problem(path) is None, f"{path}: {problem(path)}"
            torch.load(path, weights_only=True)
        elif path.name == "predictions.parquet":
            assert pq.read_table(path).num_rows, path
        elif path.suffix == ".parquet":
            assert is_readable(path) and read_conversations(path), path
        elif path.suffix == ".safetensors":
            Cartridge.from_pretrained(path.parent)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "config.yaml":
            assert yaml.safe_load(path.read_text())["trainer"]
        else:
            assert path.stat().st_size, path
        checked += 1
    return checked


def leftovers(folder: Path) -> list[Path]:
    """Temporary files."""
    return list(folder.rglob(".*.tmp"))


def check_same_end(folder: Path, undisturbed: Path) -> None:
    """The same cartridges and recording to the byte, the same checkpoint to the bit, and nothing half-written."""
    check_readable(folder)
    assert not leftovers(folder)
    for name in ("cartridge", "cartridge-best"):
        for file in ("cartridge.safetensors", "cartridge.json", "README.md"):
            ours, theirs = ((f / name / file).read_bytes() for f in (folder, undisturbed))
            assert ours == theirs, f"{name}/{file} differs"
    mine, other = (
        {path.name: path.read_bytes() for path in (f / "recording").glob("*.parquet")}
        for f in (folder, undisturbed)
    )
    assert mine.keys() == other.keys()
    assert all(mine[name] == other[name] for name in mine)
    recording = Recording(folder / "recording")
    indices = [(g, c.metadata["index"]) for g in recording.groups() for c in recording.read_group(g)]
    assert len(indices) == len(set(indices)), "a conversation is doubled"
    last, theirs = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, undisturbed)
    )
    assert last.keys() == theirs.keys()
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "SelfStudyDataModule"):
        assert _same(last[name], theirs[name]), f"the checkpoint's {name} differs"


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, torch.Tensor):
        return bool(torch.equal(mine, theirs))
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return bool(mine == theirs)
