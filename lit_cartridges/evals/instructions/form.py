"""The form of a reply: bullets, highlights, sections, JSON, a title, or one of three answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction
from lit_cartridges.files.content import parse_json


@dataclass(frozen=True, kw_only=True)
class NumberBulletLists(Instruction):
    """Exactly so many bullet points: lines that begin with one ``*``, or with ``-``."""

    type = "detectable_format:number_bullet_lists"
    num_bullets: int

    def follows(self, reply: str) -> bool:
        return len(re.findall(r"^\s*(?:\*[^*]|-).*$", reply, re.MULTILINE)) == self.num_bullets


@dataclass(frozen=True, kw_only=True)
class NumberHighlightedSections(Instruction):
    """At least so many parts of a line between ``*`` or between ``**``."""

    type = "detectable_format:number_highlighted_sections"
    num_highlights: int

    def follows(self, reply: str) -> bool:
        found = re.findall(r"\*([^\n*]*)\*", reply) + re.findall(r"\*\*([^\n*]*)\*\*", reply)
        return sum(bool(part.strip()) for part in found) >= self.num_highlights


@dataclass(frozen=True, kw_only=True)
class MultipleSections(Instruction):
    """At least so many sections, each opened by a word such as "Section" and a number."""

    type = "detectable_format:multiple_sections"
    section_spliter: str  # IFEval's spelling
    num_sections: int

    def follows(self, reply: str) -> bool:
        opening = re.escape(self.section_spliter.strip()) + r"\s?\d+"
        return len(re.findall(opening, reply)) >= self.num_sections


@dataclass(frozen=True, kw_only=True)
class JsonFormat(Instruction):
    """The whole reply is JSON, which may stand in a Markdown fence."""

    type = "detectable_format:json_format"

    def follows(self, reply: str) -> bool:
        inside = re.sub(r"^```(?:json|Json|JSON)?", "", reply.strip()).removesuffix("```")
        try:
            parse_json(inside.strip(), strict=False)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Title(Instruction):
    """A title in double angular brackets, as in <<poem of joy>>, on one line."""

    type = "detectable_format:title"

    def follows(self, reply: str) -> bool:
        return any(part.strip("<> ") for part in re.findall(r"<<[^\n]+>>", reply))


@dataclass(frozen=True, kw_only=True)
class ConstrainedResponse(Instruction):
    """The reply has one of three sentences, as they are spelt."""

    type = "detectable_format:constrained_response"

    def follows(self, reply: str) -> bool:
        return any(f"My answer is {choice}." in reply for choice in ("yes", "no", "maybe"))
