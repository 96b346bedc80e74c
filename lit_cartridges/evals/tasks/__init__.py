"""What systems are asked, one kind of task a file."""

from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.evals.tasks.passkey import EnglishPasskey, PasskeyLanguage
from lit_cartridges.evals.tasks.question_file import QuestionFile
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask

__all__ = [
    "EnglishPasskey",
    "EvalError",
    "EvalQuestion",
    "EvalTask",
    "LongHealth",
    "LongHealthCorpus",
    "PasskeyLanguage",
    "QuestionFile",
]
