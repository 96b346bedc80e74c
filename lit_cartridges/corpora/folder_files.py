"""The files of a folder that may be read: without hidden, ignored and built ones, and why each other was left."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from lit_cartridges.corpora.gitignore import GitIgnored

BUILD_FOLDERS = (
    "node_modules",
    "bower_components",
    "__pycache__",
    "site-packages",
    "*.egg-info",
    "venv",
    "target",
    "dist",
    "build",
)
LeftOut = defaultdict[str, list[str]]  # names below the folder by the reason


class FolderFiles:
    """Walks a folder once. No link to a folder is followed, so that none leads in a circle.

    Args:
        root: the folder.
        patterns: names of files to read, upper and lower case alike ("*.md", "docs/*.txt"); all where None.
        skip_folders: names of folders that are not looked into.
        gitignore: leave what the folder's `.gitignore` files name, by git's rules.
    """

    def __init__(
        self, root: Path, *, patterns: Sequence[str] | None, skip_folders: Sequence[str], gitignore: bool
    ) -> None:
        self.root, self.patterns, self.skip_folders = root, patterns, skip_folders
        self.gitignore = gitignore
        self.left_out: LeftOut = defaultdict(list)
        self._ignored = GitIgnored()
        self._found: list[str] = []

    def found(self) -> list[str]:
        """Names of the files below the folder, sorted."""
        folders = [""]
        while folders:
            folders += self._look_into(folders.pop())
        return sorted(self._found)

    def _look_into(self, folder: str) -> list[str]:
        """Finds its files; returns the folders in it that are to be looked into."""
        folders: list[str] = []
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except OSError as error:
            self.left_out[f"cannot be read ({error.strerror})"].append(f"{folder}/")
            return folders
        if self.gitignore and any(entry.name == ".gitignore" for entry in entries):
            self._ignored.read(self.root / folder / ".gitignore", folder)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if os.path.isdir(entry.path):
                if reason := self._folder_problem(entry, name):
                    self.left_out[reason].append(f"{name}/")
                else:
                    folders.append(name)
            elif reason := self._file_problem(name):
                self.left_out[reason].append(name)
            else:
                self._found.append(name)
        return folders

    def _folder_problem(self, entry: os.DirEntry[str], name: str) -> str:
        if entry.name.startswith("."):
            return "hidden"
        if entry.is_symlink():
            return "links to folders"
        if any(fnmatchcase(entry.name, pattern) for pattern in self.skip_folders):
            return "build folders"
        if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")) and self.skip_folders:
            return "build folders"
        return "named by .gitignore" if self._ignored.names(name, is_folder=True) else ""

    def _file_problem(self, name: str) -> str:
        if os.path.basename(name).startswith("."):
            return "hidden"
        if self._ignored.names(name, is_folder=False):
            return "named by .gitignore"
        if self.patterns is not None and not any(_matches(name, pattern) for pattern in self.patterns):
            return "not of patterns"
        try:
            # A pipe or a device would be waited for without end.
            regular = stat.S_ISREG((self.root / name).stat().st_mode)
        except OSError:
            return "links to nothing"
        return "" if regular else "no regular files"


def _matches(name: str, pattern: str) -> bool:
    return PurePosixPath(name.lower()).match(pattern.lower().removeprefix("**/"))
