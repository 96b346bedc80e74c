"""A cartridge on disk: ``cartridge.safetensors`` (the truth), ``cartridge.json`` and ``README.md`` (for readers).

The safetensors file holds ``layers.{i}.keys`` and ``layers.{i}.values`` [kv_heads, num_tokens, head_dim] and, in its
header, the same description as ``cartridge.json``, so that one atomic rename replaces all that loading needs.

Format version 2 is version 1 with ``layers.{i}.biases`` [kv_heads, num_tokens]. A cartridge without biases is still
written as version 1; readers of that version refuse the other, rather than leave the biases out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lit_cartridges.atomic_files import write_atomically
from lit_cartridges.errors import CartridgesError
from lit_cartridges.found_models import unreachable

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge

FORMAT_VERSION, VERSION_WITHOUT_BIASES = 2, 1
TENSORS, DESCRIPTION, CARD = "cartridge.safetensors", "cartridge.json", "README.md"


class CartridgeFileError(CartridgesError, ValueError):
    """A file that is no cartridge of ours, or not all of one; the message names the file and the mend."""


def save_cartridge(cartridge: Cartridge, folder: Path) -> Path:
    """Write the three files into ``folder``, each beside its place and renamed into it."""
    folder.mkdir(parents=True, exist_ok=True)
    description = describe(cartridge)
    keys, values = cartridge.tensors()
    tensors = {
        f"layers.{layer}.{name}": x.detach().cpu().contiguous()
        for name, side in (("keys", keys), ("values", values), ("biases", cartridge.biases() or ()))
        for layer, x in enumerate(side)
    }
    write_atomically(folder / TENSORS, save(tensors, metadata={"cartridge": json.dumps(description)}))
    write_atomically(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    write_atomically(folder / CARD, model_card(description).encode())
    return folder


def load_cartridge(path: str | Path, **hub: Any) -> Cartridge:
    """Read a folder, or download a Hub repository of that name first.

    Raises:
        CartridgeFileError: the folder or its tensors are missing, truncated, or not a cartridge's.
    """
    folder = Path(path)
    if not folder.exists() and len(folder.parts) == 2 and not str(path).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        if (why := unreachable(str(path), file=TENSORS)) is not None:
            raise CartridgeFileError(f"path={str(path)!r}: {why}")
        try:
            folder = Path(snapshot_download(str(path), allow_patterns=[TENSORS, DESCRIPTION], **hub))
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise CartridgeFileError(
                f"path={str(path)!r} is no folder here, and the Hub has none for us: {error}"
            ) from error
    file = folder / TENSORS
    if not file.is_file():
        raise CartridgeFileError(
            f"path={str(path)!r} holds no {TENSORS}; give the folder that save_pretrained wrote"
        )
    return _read(file)


def _read(file: Path) -> Cartridge:
    from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance

    try:
        with safe_open(file, framework="pt") as tensors:
            text = (tensors.metadata() or {}).get("cartridge")
            if text is None:
                raise CartridgeFileError(
                    f"{file} is a safetensors file but not a cartridge's: it has no description"
                )
            description = json.loads(text)
            version = description["format_version"]
            if version > FORMAT_VERSION:
                raise CartridgeFileError(
                    f"{file} has format version {version}; this release reads up to {FORMAT_VERSION}: upgrade it"
                )
            layers = range(description["num_layers"])
            keys, values = (
                [tensors.get_tensor(f"layers.{layer}.{name}") for layer in layers]
                for name in ("keys", "values")
            )
            biases = None
            if version > VERSION_WITHOUT_BIASES:
                biases = [tensors.get_tensor(f"layers.{layer}.biases") for layer in layers]
        known = {**description["provenance"]}
        if known.get("fingerprint"):
            known["fingerprint"] = Fingerprint(**known["fingerprint"])
        return Cartridge(
            keys,
            values,
            biases,
            num_frozen_tokens=description["num_frozen_tokens"],
            provenance=Provenance(**known),
        )
    except CartridgeFileError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CartridgeFileError(f"{file} is truncated or not a cartridge: {error}") from error


def push_cartridge(cartridge: Cartridge, repo_id: str, **hub: Any) -> str:
    """Create the Hub repository if need be and upload the folder; returns the commit's address."""
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    api = HfApi(token=hub.pop("token", None))
    api.create_repo(repo_id, exist_ok=True, private=hub.pop("private", None))
    with TemporaryDirectory() as folder:
        save_cartridge(cartridge, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **hub))


def describe(cartridge: Cartridge) -> dict[str, Any]:
    """The content of ``cartridge.json``."""
    return {
        "format_version": VERSION_WITHOUT_BIASES if cartridge.biases() is None else FORMAT_VERSION,
        "num_tokens": cartridge.num_tokens,
        "num_frozen_tokens": cartridge.num_frozen_tokens,
        "num_layers": cartridge.num_layers,
        "provenance": asdict(cartridge.provenance),
    }


def model_card(description: dict[str, Any]) -> str:
    """A Hub model card: what the cartridge stands for and how to load it."""
    known = description["provenance"]
    base = known["base_model"]
    header = ["---", "library_name: lit_cartridges", "tags: [cartridge, kv-cache]"]
    header += [f"base_model: {base}"] if base and not base.startswith(("/", ".", "package:")) else []
    biases = "" if description["format_version"] == VERSION_WITHOUT_BIASES else ", a bias per key"
    loss = "" if known["loss"] is None else f", last loss {known['loss']:.4f}"
    return "\n".join(
        [
            *header,
            "---",
            "# Cartridge",
            "",
            f"{description['num_tokens']} positions of keys{biases} and values for `{base or 'an unnamed model'}`, "
            f"{description['num_frozen_tokens']} of them frozen, that stand in place of a corpus "
            f"(sha256 `{known['corpus_sha256'] or 'unknown'}`). Init: {known['init'] or 'unknown'}. "
            f"Trained for {known['steps']} optimizer steps{loss}. Method: arXiv 2506.06266.",
            "",
            "```python",
            "from lit_cartridges import Cartridge",
            "from lit_cartridges.generation import generate",
            "",
            'cartridge = Cartridge.from_pretrained("this folder or repository")',
            "generate(model, cartridge, **tokenizer(prompt, return_tensors='pt'), max_new_tokens=128)",
            "```",
            "",
        ]
    )
