"""Where a model's files are: a folder, the Hub, an installed package, or, for an adapter, its base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from lit_cartridges.models.adapters import Adapter, find_adapter
from lit_cartridges.models.errors import ModelError, Refused, explained
from lit_cartridges.models.gguf import gguf_file, unpacked
from lit_cartridges.models.packages import PREFIX, package_folder


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model's files are.

    Args:
        source: the folder or Hub id of config and weights.
        revision: of that on the Hub; None for its default branch.
        adapter: what is to be active on it, if the name was an adapter's.
    """

    source: str
    revision: str | None
    adapter: Adapter | None

    @property
    def folder(self) -> Path | None:
        """The folder, or the Hub's cache of it; None before anything is downloaded."""
        if Path(self.source).is_dir():
            return Path(self.source)
        file = try_to_load_from_cache(self.source, "config.json", revision=self.revision)
        return Path(file).parent if isinstance(file, str) else None

    @property
    def commit(self) -> str:
        """The Hub's commit that the cache holds; empty for a folder."""
        return "" if Path(self.source).is_dir() or self.folder is None else self.folder.name


def resolve(name: str, *, setting: str = "model") -> str:
    """The Hub id or folder behind ``name``; of a GGUF file the folder that it is unpacked to.

    Args:
        setting: how the user calls the setting that holds the name; for the error.

    Raises:
        ModelError: a ``package:`` name that cannot be opened, or a GGUF file that cannot be read.
    """
    source = str(package_folder(name, setting=setting)) if name.startswith(PREFIX) else name
    with explained(name, setting=setting):
        file = gguf_file(Path(source))
        return source if file is None else str(unpacked(file))


def locate(
    name: str, *, revision: str | None = None, token: str | None = None, setting: str = "model"
) -> Place:
    """The files of the model ``name``: of its base, where it is an adapter's.

    Raises:
        ModelError: see `resolve` and `find_adapter`; or a folder without a config.
    """
    source = resolve(name, setting=setting)
    with explained(name, setting=setting, revision=revision):
        _require_folder(source)
        _require_reachable(source, revision=revision, token=token)
        adapter = find_adapter(source, revision=revision, token=token)
        if adapter is not None:
            try:
                source = resolve(adapter.base, setting="base_model_name_or_path")
                _require_folder(source)
            except (ModelError, Refused) as error:
                raise Refused(f"its adapter_config.json names what cannot be opened: {error}") from error
            revision = adapter.base_revision
            _require_reachable(source, revision=revision, token=token)
            if find_adapter(source, revision=revision, token=token) is not None:
                raise Refused(
                    f"its base {adapter.base!r} is an adapter too; merge the two, or give one on a model"
                )
        if Path(source).is_dir():
            file = Path(source) / "config.json"
            if not file.is_file():
                raise Refused(
                    f"the folder {source} holds no config.json; give a model's folder or its Hub id"
                )
            if not isinstance(json.loads(file.read_text()), dict):
                raise Refused("its config.json is no JSON object; download or save it again")
    return Place(source=source, revision=revision, adapter=adapter)


def _require_folder(source: str) -> None:
    is_path = source.startswith(("/", ".", "~")) or Path(source).is_file()
    if not source.strip() or (is_path and not Path(source).is_dir()):
        raise Refused(f"there is no folder {source!r}; give a model's folder or its Hub id")


def _require_reachable(source: str, *, revision: str | None, token: str | None) -> None:
    if not Path(source).is_dir():
        _ask_hub(source, revision=revision, token=token)


@cache
def _ask_hub(source: str, *, revision: str | None, token: str | None) -> None:
    """Once for what is no folder, in place of the many times that transformers would ask a dead line."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        hf_hub_download(source, "config.json", revision=revision, token=token)
    except LocalEntryNotFoundError:
        if not isinstance(try_to_load_from_cache(source, "adapter_config.json", revision=revision), str):
            raise
    except EntryNotFoundError:
        pass  # an adapter's repository, or one without a model, which transformers says
    finally:
        hub_logging.set_verbosity(before)
