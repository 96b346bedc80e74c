"""Evaluation: tasks, systems under test, and the figures that compare them."""

from lit_cartridges.evals import tasks
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.systems import (
    SYSTEMS,
    CascadeSystem,
    ContextTooLong,
    System,
    icl,
    no_context,
    of_cartridge,
    streamed,
    truncated_icl,
)
from lit_cartridges.evals.table import text_table
from lit_cartridges.evals.tasks import (
    EnglishPasskey,
    EvalError,
    EvalQuestion,
    EvalTask,
    HeldOutConversations,
    IFEval,
    LongHealth,
    LongHealthCorpus,
    Mrcr,
    MrcrCorpus,
    PasskeyLanguage,
    QuestionFile,
    Ruler,
    RulerCorpus,
    Squad,
    SquadCorpus,
    WordPasskey,
)
from lit_cartridges.found_classes import found_classes

__all__ = [
    "SYSTEMS",
    "CascadeSystem",
    "ContextTooLong",
    "EnglishPasskey",
    "EvalError",
    "EvalQuestion",
    "EvalResult",
    "EvalTask",
    "HeldOutConversations",
    "IFEval",
    "LongHealth",
    "LongHealthCorpus",
    "Mrcr",
    "MrcrCorpus",
    "PasskeyLanguage",
    "QuestionFile",
    "Reply",
    "Ruler",
    "RulerCorpus",
    "Squad",
    "SquadCorpus",
    "System",
    "WordPasskey",
    "evaluate",
    "icl",
    "no_context",
    "of_cartridge",
    "streamed",
    "text_table",
    "truncated_icl",
]

globals().update(found_classes(tasks.__name__, EvalTask))  # every task, by its name
