"""What systems are asked, one kind of task a file."""

from lit_cartridges.evals.tasks.held_out import HeldOutConversations
from lit_cartridges.evals.tasks.ifeval import IFEval
from lit_cartridges.evals.tasks.kalamang import Kalamang, KalamangCorpus
from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.evals.tasks.mrcr import Mrcr, MrcrCorpus
from lit_cartridges.evals.tasks.mtob import Mtob, MtobCorpus
from lit_cartridges.evals.tasks.passkey import EnglishPasskey, PasskeyLanguage
from lit_cartridges.evals.tasks.qasper import Qasper, QasperCorpus
from lit_cartridges.evals.tasks.quality import Quality, QualityCorpus
from lit_cartridges.evals.tasks.question_file import QuestionFile
from lit_cartridges.evals.tasks.ruler import Ruler, RulerCorpus
from lit_cartridges.evals.tasks.squad import Squad, SquadCorpus
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.evals.tasks.word_passkey import WordPasskey
from lit_cartridges.found_classes import found_classes

__all__ = [
    "EnglishPasskey",
    "EvalError",
    "EvalQuestion",
    "EvalTask",
    "HeldOutConversations",
    "IFEval",
    "Kalamang",
    "KalamangCorpus",
    "LongHealth",
    "LongHealthCorpus",
    "Mrcr",
    "MrcrCorpus",
    "Mtob",
    "MtobCorpus",
    "PasskeyLanguage",
    "Qasper",
    "QasperCorpus",
    "Quality",
    "QualityCorpus",
    "QuestionFile",
    "Ruler",
    "RulerCorpus",
    "Squad",
    "SquadCorpus",
    "WordPasskey",
]

globals().update(found_classes(__name__, EvalTask))  # every task of this folder, by its name
