"""A data set of the Hugging Face Hub as a corpus, by its Parquet files.

The Hub keeps public data sets as Parquet beside what their authors uploaded, in folders named after configuration and split (the
revision ``refs/convert/parquet``). So a data set is a few files: huggingface_hub fetches them, and no code of theirs runs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_cartridges.corpora.corpus import CorpusError, Document
from lit_cartridges.corpora.parquet_corpus import ParquetCorpus
from lit_cartridges.files.content import one_line
from lit_cartridges.settings import HUB_DATASET, HUB_FORM, checked
from lit_cartridges.terminal import printable_line

_tell = rank_zero_only(logging.getLogger(__name__).warning)
_CONVERTED = "refs/convert/parquet"
_PARTIAL = "partial-"  # how the Hub calls a split of which it has converted the beginning alone


class HubDataset(ParquetCorpus):
    """One document per row of a data set on the Hub; `documents` downloads it, into the Hub's own cache."""

    suffixes = ()

    @checked
    def __init__(
        self,
        *,
        name: str,
        config: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
    ) -> None:
        """
        Args:
            name: ``OWNER/NAME``. For private and gated ones HF_TOKEN is the key.
            config: its configuration, where it has several.
            split: of that.
            column: the one that holds the text.
            revision: branch, tag or commit of Parquet files that the authors uploaded; by default the Hub's own conversion,
                or the main branch of a data set that has none.
        """
        # The base looks for a file; here the path names the data set in messages.
        self.path = Path(f"hf:/datasets/{name}{f'/{config}' if config else ''}:{split}")
        self.name, self.config, self.split, self.column, self.revision = name, config, split, column, revision

    @classmethod
    def at(cls, address: str, *, column: str = "text") -> HubDataset:
        """The one of ``hf://datasets/OWNER/NAME[/CONFIG][:SPLIT]``.

        Raises:
            CorpusError: another form.
        """
        found = HUB_DATASET.fullmatch(address)
        if found is None:
            raise CorpusError(f"path={address!r} must be {HUB_FORM}")
        return cls(name=found["name"], config=found["config"], split=found["split"] or "train", column=column)

    def documents(self) -> Iterator[Document]:
        try:
            commit, files = self._files()
            local = [hf_hub_download(self.name, file, repo_type="dataset", revision=commit) for file in files]
        except CorpusError:
            raise
        except GatedRepoError as error:
            raise self._unusable("is gated: accept its terms on the Hub, and set HF_TOKEN") from error
        except RevisionNotFoundError as error:
            raise self._unusable(f"has no revision={self.revision!r}") from error
        except RepositoryNotFoundError as error:
            raise self._unusable(
                "is not on the Hub, or private: look at its name, or set HF_TOKEN"
            ) from error
        except (OSError, ValueError, HTTPError) as error:
            raise self._unusable(
                f"cannot be fetched ({one_line(error)}); give a folder of its Parquet files"
            ) from error
        yield from self._rows(zip(map(Path, local), files, strict=True))

    def _files(self) -> tuple[str, list[str]]:
        """The commit, and the split's files in it, in order."""
        api = HfApi()
        try:
            info = api.dataset_info(self.name, revision=self.revision or _CONVERTED)
        except RevisionNotFoundError:
            if self.revision is not None:
                raise
            info = api.dataset_info(self.name)
        places: dict[tuple[str, str], list[str]] = {}
        for file in sorted(sibling.rfilename for sibling in info.siblings or ()):
            if file.endswith(".parquet"):
                places.setdefault(_place(PurePosixPath(file)), []).append(file)
        if not places:
            raise self._unusable("has no Parquet files; give its files as a folder")
        configs = sorted({config for config, _ in places})
        config = self.config or ("default" if "default" in configs else configs[0])
        if config not in configs or (self.config is None and len(configs) > 1 and config != "default"):
            raise self._unusable(f"config={self.config!r}: set it to one of {one_line(', '.join(configs))}")
        splits = sorted(split for known, split in places if known == config)
        split = self.split if self.split in splits else _PARTIAL + self.split
        if split not in splits:
            raise self._unusable(f"split={self.split!r}: set it to one of {one_line(', '.join(splits))}")
        if split != self.split:
            _tell(
                "corpus %s: the Hub has converted the beginning of this split alone",
                printable_line(self.path),
            )
        return str(info.sha), places[config, split]

    def _unusable(self, why: str) -> CorpusError:
        return CorpusError(f"path={str(self.path)!r}: the data set {self.name!r} {why}")


def _place(file: PurePosixPath) -> tuple[str, str]:
    """(configuration, split) of a file: CONFIG/SPLIT/0000.parquet in the Hub's conversion, else [CONFIG/]SPLIT-….parquet."""
    if file.stem.isdigit() and len(file.parts) > 2:
        return file.parts[-3], file.parts[-2]
    folder = file.parts[0] if len(file.parts) > 1 else "data"
    return ("default" if folder == "data" else folder), re.split(r"[-.]", file.stem)[0]
