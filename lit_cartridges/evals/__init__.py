"""Evaluation: tasks, systems under test, and the figures that compare them."""

from lit_cartridges.evals.cascade_system import CascadeSystem, streamed
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.evals.passkey import EnglishPasskey, PasskeyLanguage
from lit_cartridges.evals.question_file import QuestionFile
from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.system import ContextTooLong, System, icl, no_context, of_cartridge, truncated_icl
from lit_cartridges.evals.table import text_table
from lit_cartridges.evals.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.found_classes import found_classes

__all__ = [
    "CascadeSystem",
    "ContextTooLong",
    "EnglishPasskey",
    "EvalError",
    "EvalQuestion",
    "EvalResult",
    "EvalTask",
    "LongHealth",
    "LongHealthCorpus",
    "PasskeyLanguage",
    "QuestionFile",
    "Reply",
    "System",
    "evaluate",
    "icl",
    "no_context",
    "of_cartridge",
    "streamed",
    "text_table",
    "truncated_icl",
]

globals().update(found_classes(__name__, EvalTask))  # every task of this folder, by its name
