"""What the `.gitignore` files of a folder name, entry by entry, as git walks it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec


class GitIgnored:
    """Rules of a folder and of those below it. Who walks asks for every entry, and looks into no ignored folder.

    So a rule is held against the entry alone: that it names a folder above is not asked again (`!*/` re-includes
    folders, and not what is in them), for which `GitIgnoreSpec.match_file` has no switch.
    """

    def __init__(self) -> None:
        self._rules: dict[str, list[tuple[Any, bool]]] = {}

    def read(self, file: Path, folder: str) -> None:
        """Take up the rules of a `.gitignore` in `folder`, a name below the root ("" for the root)."""
        try:
            lines = os.fsdecode(file.read_bytes()).removeprefix("\ufeff").split("\n")
        except OSError:
            return
        # The last rule that names an entry counts.
        self._rules[folder] = [rule for line in reversed(lines) for rule in _rule(line.removesuffix("\r"))]

    def names(self, entry: str, *, is_folder: bool) -> bool:
        """Whether the entry, a name below the root, is ignored; the deepest file with a rule for it decides."""
        folder = entry
        while folder:
            folder = folder.rpartition("/")[0]
            name = entry[len(folder) + 1 if folder else 0 :]
            for pattern, folders_only in self._rules.get(folder, ()):
                found = pattern.regex.search(name) if is_folder or not folders_only else None
                if (
                    found and found.lastgroup is None
                ):  # the group is the "/" behind a folder that the rule names
                    return bool(pattern.include)
        return False


def _rule(line: str) -> list[tuple[Any, bool]]:
    """The pattern, and whether it is for folders only; nothing for a comment and for what git takes for no rule."""
    plain = line.rstrip(" ")
    folders_only = plain.endswith("/")
    try:
        patterns = GitIgnoreSpec.from_lines([plain[:-1] if folders_only else line]).patterns
    except ValueError:
        return []
    return [(pattern, folders_only) for pattern in patterns if pattern.include is not None]
