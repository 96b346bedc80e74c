"""IFEval's 25 types of instructions, a family a file: rules that a reply follows or not, without a judge."""

from typing import Any

from lit_cartridges.evals.instructions.instruction import Instruction
from lit_cartridges.evals.instructions.verdict import Verdict, variants
from lit_cartridges.files.content import named, record
from lit_cartridges.found_classes import found_classes

__all__ = ["INSTRUCTIONS", "Instruction", "Verdict", "read_instruction", "variants"]

INSTRUCTIONS = {found.type: found for found in found_classes(__name__, Instruction).values()}


def read_instruction(type_: Any, settings: Any, where: str) -> Instruction:
    """The instruction of a type as IFEval's file names it, with its settings; those that are null count as left out.

    Raises:
        ValueError: an unknown type, or settings that it does not have; the message names ``where``.
    """
    if not isinstance(type_, str) or type_ not in INSTRUCTIONS:
        raise ValueError(
            f"{where} is no type of instruction: {named(type_)}; there are {', '.join(INSTRUCTIONS)}"
        )
    if isinstance(settings, dict):
        settings = {key: value for key, value in settings.items() if value is not None}
    return record(INSTRUCTIONS[type_], settings, f"{where} {type_}")
