"""The language of a reply, as langdetect finds it: a package, which the extra ``ifeval`` brings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lit_cartridges.evals.instructions.instruction import Instruction
from lit_cartridges.optional import require_modules


@dataclass(frozen=True, kw_only=True)
class ResponseLanguage(Instruction):
    """The whole reply is in this language (ISO 639-1)."""

    type = "language:response_language"
    language: str

    def __post_init__(self) -> None:
        require_modules("langdetect")
        known = sorted(path.name for path in files("langdetect").joinpath("profiles").iterdir())
        if self.language not in known:
            raise ValueError(f"language={self.language!r} is none that langdetect knows: {', '.join(known)}")

    def follows(self, reply: str) -> bool:
        return is_in(self.language, reply)


def is_in(language: str, text: str) -> bool:
    """Whether a text is in this language; one without letters, of which nobody can tell, is in any.

    langdetect draws lots; its own default makes them new ones in each process, here they are the same ones always.
    """
    from langdetect import LangDetectException

    detector = _factory().create()
    detector.append(text)
    try:
        return bool(detector.detect() == language)
    except LangDetectException:
        return True


@cache
def _factory() -> Any:
    """A factory of our own, since the package's is for all of a process and somebody else may seed it."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = 0
    return factory
