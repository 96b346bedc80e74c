"""Models in GGUF files: read once by transformers, and from then on an ordinary folder of safetensors.

What reads a model reads folders: its digest, its shards, a server, an adapter that names its base. So a GGUF file is unpacked
into one, beside the Hub's cache, under the sha256 of the file. Its weights of few bits become the fp32 numbers that they stand
for (4 bytes each on the disk); its tokenizer and chat template come along.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lit_cartridges.models.errors import Refused
from lit_cartridges.optional import hint
from lit_cartridges.terminal import printable_line

SUFFIX = ".gguf"
_tell = logging.getLogger(__name__).warning


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that ``path`` is, or that a folder without another model holds; None where there is none.

    Raises:
        Refused: the folder holds several.
    """
    if path.suffix == SUFFIX and path.is_file():
        return path
    if not path.is_dir() or any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        return None
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise Refused(
            f"the folder {path} holds {len(found)} GGUF files ({names}); give the path of one of them"
        )
    return found[0] if found else None


def unpacked(file: Path) -> Path:
    """The folder of the model in a GGUF file, made at the first call for a file of this content.

    Raises:
        Refused: the gguf package is missing.
    """
    stat = file.stat()
    return _unpacked(file.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _unpacked(file: Path, size: int, changed_ns: int) -> Path:
    del size, changed_ns  # another file under the same name is read anew
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    folder = Path(constants.HF_HOME) / "lit_cartridges" / f"{file.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    if find_spec("gguf") is None:
        raise Refused(f"it is a GGUF file, and gguf is not installed; {hint('gguf')}")
    _tell(
        "reading %s for the first time; it is kept as %s", printable_line(file.name), printable_line(folder)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        _save(file, beside)
        beside.chmod(0o755)  # mkdtemp's folders are for one user
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _save(file: Path, folder: Path) -> None:
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    transformers_logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers calls the model quantised, and saves no such model. Its numbers are plain ones: a fresh model takes them.
    config, weights = loaded.config, loaded.state_dict()
    del config.quantization_config
    config._name_or_path = ""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    if license := _license(file):
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n", encoding="utf-8")


def _license(file: Path) -> str:
    """As the file says it, where that is an identifier."""
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("general.license")
    said = str(field.contents()) if field is not None else ""
    return said if said.replace("-", "").replace(".", "").isalnum() else ""
