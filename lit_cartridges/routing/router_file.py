"""``router.safetensors`` beside a cartridge: vectors of questions, scores of negatives, and in the header all else.

It belongs to the weights of one base model and to the corpus of one cartridge (where that is not known, to its tensors), and is
refused beside another. A training that goes on leaves it right: it knows the questions, and nothing of what was trained.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lit_cartridges.cartridge_files.description import sha256_of, tensors_sha256
from lit_cartridges.cartridge_files.folder import TENSORS, here_or_downloaded, read_header
from lit_cartridges.files.content import named, one_line, parse_json, record, whole_number
from lit_cartridges.models.base_weights import digest_of
from lit_cartridges.routing.router import Owner, Router, RouterError
from lit_cartridges.runs.atomic_files import write_atomically

ROUTER = "router.safetensors"
FORMAT_VERSION = 1
_MEND = "make it anew by `lit-cartridges router`, or go without by --router off"
_LENGTH_ERROR = 0.01  # of a vector of length 1 in fp16


@dataclass(frozen=True, kw_only=True)
class _Header:
    format_version: int
    alpha: float
    nearest: int
    layer: int
    num_layers: int
    negatives_from: str
    owner: Owner
    tensors_sha256: str
    sha256: str


def save_router(router: Router, folder: str | Path) -> Path:
    """Write it into a cartridge's folder."""
    tensors = {"questions": router.questions.contiguous(), "negatives": router.negatives.contiguous()}
    known: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "alpha": router.alpha,
        "nearest": router.nearest,
        "layer": router.layer,
        "num_layers": router.num_layers,
        "negatives_from": router.negatives_from,
        "owner": asdict(router.owner),
        "tensors_sha256": tensors_sha256(tensors),
    }
    header = json.dumps(known | {"sha256": sha256_of(known)})
    write_atomically(Path(folder) / ROUTER, save(tensors, metadata={"router": header}))
    return Path(folder) / ROUTER


def load_router(path: str | Path, **hub: Any) -> Router | None:
    """The router of a cartridge's folder, or of a Hub repository of that name; None where there is none.

    Raises:
        RouterError: it is damaged, or of another cartridge.
        CartridgeFileError: what lies beside it is no cartridge.
    """
    folder = here_or_downloaded(path, [TENSORS, ROUTER], needs=TENSORS, **hub)
    file = folder / ROUTER
    if not file.is_file():
        return None
    try:
        router = _read(file)
    except Exception as error:  # bytes that are no router make the readers below raise anything
        raise RouterError(f"{file} is damaged, or no router: {one_line(error)}; {_MEND}") from error
    ours, theirs = router.owner, owner_of(folder)
    for what, mine, there in (
        ("base model's digest", ours.digest, theirs.digest),
        ("corpus sha256", ours.corpus_sha256, theirs.corpus_sha256),
    ):
        if mine and there and mine != there:
            raise RouterError(
                f"{file} is the router of another cartridge ({what} {one_line(mine[:12])}, and here {one_line(there[:12])}); "
                f"{_MEND}"
            )
    same_corpus = bool(ours.corpus_sha256) and ours.corpus_sha256 == theirs.corpus_sha256
    if not same_corpus and ours.tensors_sha256 != theirs.tensors_sha256:
        raise RouterError(f"{file} is the router of other keys and values than those beside it; {_MEND}")
    return router


def owner_of(folder: Path) -> Owner:
    """What a router of this cartridge belongs to.

    Raises:
        CartridgeFileError: see `read_header`.
    """
    description, _ = read_header(folder / TENSORS)
    known = description.provenance
    return Owner(
        base_model=str(known.base_model or ""),
        digest=digest_of(known),
        corpus_sha256=str(known.corpus_sha256 or ""),
        tensors_sha256=description.tensors_sha256 or "",
    )


def _read(file: Path) -> Router:
    with safe_open(file, framework="pt") as held:
        content = parse_json((held.metadata() or {}).get("router") or "null")
        if isinstance(content, dict) and content.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"format_version={named(content.get('format_version'))}; this release reads {FORMAT_VERSION}"
            )
        header = record(_Header, content, "its header")
        if header.sha256 != sha256_of(content):
            raise ValueError("its header was changed after it was written (sha256 differs)")
        if sorted(held.keys()) != ["negatives", "questions"]:
            raise ValueError(f"it holds {named(', '.join(held.keys()))}")
        questions, negatives = held.get_tensor("questions"), held.get_tensor("negatives")
    if tensors_sha256({"questions": questions, "negatives": negatives}) != header.tensors_sha256:
        raise ValueError("its tensors were changed after they were written (tensors_sha256 differs)")
    _require(questions, dtype=torch.float16, ndim=2)
    _require(negatives, dtype=torch.float32, ndim=1)
    if float((questions.float().norm(dim=1) - 1).abs().max()) > _LENGTH_ERROR:
        raise ValueError("a question's vector has another length than 1")
    if not 0 < header.alpha < 1:
        raise ValueError(f"alpha is {header.alpha}")
    layers = whole_number(header.num_layers, "num_layers", least=1)
    return Router(
        questions=questions,
        negatives=negatives,
        alpha=float(header.alpha),
        nearest=whole_number(header.nearest, "nearest", least=1),
        layer=whole_number(header.layer, "layer", least=1, below=layers + 1),
        num_layers=layers,
        owner=header.owner,
        negatives_from=header.negatives_from,
    )


def _require(x: Tensor, *, dtype: torch.dtype, ndim: int) -> None:
    if x.dtype != dtype or x.ndim != ndim or not x.numel() or not torch.isfinite(x).all():
        raise ValueError(f"a tensor is {x.dtype} {list(x.shape)}, or holds what is no number")
