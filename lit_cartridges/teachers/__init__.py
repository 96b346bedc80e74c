"""Teachers: the frozen model that asks and answers, here, on a server, or out of a recording."""

from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.found_classes import found_classes
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.openai import OpenAITeacher
from lit_cartridges.teachers.teacher import (
    Completion,
    Request,
    Sampling,
    Talk,
    Teacher,
    TeacherError,
    TopLogprobs,
)
from lit_cartridges.teachers.vllm import VLLM

__all__ = [
    "VLLM",
    "Completion",
    "LocalTeacher",
    "OpenAITeacher",
    "RecordedConversations",
    "Request",
    "Sampling",
    "Talk",
    "Teacher",
    "TeacherError",
    "TopLogprobs",
]

globals().update(found_classes(__name__, Teacher))  # every teacher of this folder, by its name
