"""Placeholders, postscripts, and no commas."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction


@dataclass(frozen=True, kw_only=True)
class NumberPlaceholders(Instruction):
    """At least so many placeholders in square brackets, as in [address]."""

    type = "detectable_content:number_placeholders"
    num_placeholders: int

    def follows(self, reply: str) -> bool:
        return len(re.findall(r"\[.*?\]", reply)) >= self.num_placeholders


@dataclass(frozen=True, kw_only=True)
class Postscript(Instruction):
    """A postscript with this mark, in either case; "P.S." and "P.P.S" may have a blank between their letters."""

    type = "detectable_content:postscript"
    postscript_marker: str

    def follows(self, reply: str) -> bool:
        spaced = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
        marker = self.postscript_marker.strip()
        return re.search(spaced.get(marker, re.escape(marker)), reply, re.IGNORECASE) is not None


@dataclass(frozen=True, kw_only=True)
class NoComma(Instruction):
    """No comma of the Latin script."""

    type = "punctuation:no_comma"

    def follows(self, reply: str) -> bool:
        return "," not in reply
