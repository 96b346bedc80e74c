"""A whole folder as a corpus: code and text by content, and a report of what was taken and what was left."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.corpora.document_files import file_text
from lit_cartridges.corpora.encodings import NotText
from lit_cartridges.corpora.folder_files import BUILD_FOLDERS, FolderFiles, LeftOut
from lit_cartridges.files.content import one_line
from lit_cartridges.settings import checked
from lit_cartridges.terminal import printable_line

_tell = rank_zero_only(logging.getLogger(__name__).warning)
_SHOWN_NAMES, _SHOWN_KINDS = 3, 8


class FolderCorpus(Corpus):
    """The files below a folder that hold text, sorted by path; a line says what was taken, one more what was left."""

    @checked
    def __init__(
        self,
        *,
        path: str | Path,
        patterns: Sequence[str] | None = None,
        encoding: str = "utf-8",
        skip_folders: Sequence[str] = BUILD_FOLDERS,
        gitignore: bool = True,
    ) -> None:
        """
        Args:
            path: the folder. Hidden files and folders in it are never read.
            patterns: file name patterns such as "*.md", in upper and lower case alike; by default every file with text.
            encoding: of the files that are neither UTF-8 nor begin with a byte order mark.
            skip_folders: names of folders of builds and installed packages, which are not looked into.
            gitignore: leave out what the `.gitignore` files in the folder name.
        """
        super().__init__(path)
        if not self.path.is_dir():
            raise CorpusError(
                f"path={str(self.path)!r} is no folder; give one, or read the file with TextCorpus"
            )
        self.patterns = None if patterns is None else tuple(patterns)
        self.encoding, self.skip_folders, self.gitignore = encoding, tuple(skip_folders), gitignore
        self._left_out: LeftOut | None = None

    @property
    def empty_hint(self) -> str:
        hint = "no file with text in it"
        if self.patterns is not None:
            hint += f" matches patterns={list(self.patterns)}, set patterns to what is there"
        return hint + "".join(
            f"; {reason}: {names}" for reason, names in _summary(self._left_out or LeftOut())
        )

    def documents(self) -> Iterator[Document]:
        files = FolderFiles(
            self.path, patterns=self.patterns, skip_folders=self.skip_folders, gitignore=self.gitignore
        )
        taken: Counter[str] = Counter()
        for name in files.found():
            try:
                text, note = file_text(self.path / name, self.encoding, mixed=True)
            except NotText as error:
                binary = error.reason.startswith("binary")
                files.left_out[error.reason if binary else f"{error.reason}; {error.mend}"].append(name)
            except OSError as error:
                files.left_out[f"cannot be read ({error.strerror or one_line(error)})"].append(name)
            else:
                if note:
                    files.left_out[f"in part: {note}"].append(name)
                if not text.strip():
                    files.left_out["empty"].append(name)
                    continue
                taken[PurePosixPath(name).suffix.lower() or "without suffix"] += 1
                yield Document(name, text)
        self._report(taken, files.left_out)

    def _report(self, taken: Counter[str], left_out: LeftOut) -> None:
        """Once, however often the documents are read."""
        if self._left_out is not None:
            return
        self._left_out = left_out
        kinds = [f"{count:,} {kind}" for kind, count in taken.most_common(_SHOWN_KINDS)]
        if others := taken.total() - sum(count for _, count in taken.most_common(_SHOWN_KINDS)):
            kinds.append(f"{others:,} others")
        if taken:
            files = f"{taken.total():,} file{'' if taken.total() == 1 else 's'}"
            _tell("corpus %s: took %s (%s)", printable_line(self.path), files, ", ".join(kinds))
        for reason, names in _summary(left_out):
            _tell("corpus %s: left out %s: %s", printable_line(self.path), names, printable_line(reason))


def _summary(left_out: LeftOut) -> Iterator[tuple[str, str]]:
    """Per reason: how many, and a few of their names."""
    for reason, names in sorted(left_out.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = ", ".join(printable_line(name) for name in names[:_SHOWN_NAMES])
        yield reason, f"{len(names):,} ({shown}{', …' if len(names) > _SHOWN_NAMES else ''})"
