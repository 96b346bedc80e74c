"""Whether what the teacher reads, and a conversation behind it, fit the model; asked before the model is loaded."""

from __future__ import annotations

from transformers import PretrainedConfig

from lit_cartridges.corpora.chunkers import ChunkerError
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.self_study.synthesizer import Synthesizer

READ_AGAIN_ERROR = (
    "the objective reads the teacher's context again with every conversation (FullDistillation does), and "
    "corpus_before_chunk=true puts the whole corpus into it; choose TopKDistillation, whose targets are recorded, or "
    "conversations without it"
)


def require_room(synthesizer: Synthesizer, config: PretrainedConfig, *, read_again: bool = False) -> None:
    """Check the longest context and conversation against the model's positions.

    Args:
        config: of the model.
        read_again: the objective reads the context again, in full, whatever means the teacher has.

    Raises:
        ValueError: they do not fit; the message names the setting, its value and what would work.
    """
    teacher, chunker = synthesizer.teacher, synthesizer.chunker
    if read_again and synthesizer.corpus_before_chunk:
        raise ValueError(READ_AGAIN_ERROR)
    teacher.check_model(config)
    limit = max_positions(config)
    if limit is None:
        return
    corpus_tokens = len(synthesizer.corpus_ids)
    if not synthesizer.corpus_before_chunk:
        if read_again or not teacher.reads_any_length:
            try:
                chunker.validate(limit, synthesizer.reserved_tokens, corpus_tokens=corpus_tokens)
            except ChunkerError as error:
                raise _no_room(synthesizer, error) from error
        return
    context_tokens = len(synthesizer.corpus_context)
    in_front = teacher.prefix_positions(context_tokens)
    # The reserved tokens count the chat template's opening, and so does what is in front.
    talk = synthesizer.reserved_tokens - (context_tokens - corpus_tokens)
    chunk = min(chunker.max_tokens, corpus_tokens)
    if in_front + chunk + talk > limit:
        raise ChunkerError(
            f"corpus_before_chunk=true: the corpus takes {in_front} positions in front of a chunk, a chunk up to {chunk} "
            f"(max_tokens={chunker.max_tokens}) and a conversation {talk}, and the model has {limit}; give a LocalTeacher a "
            f"cascade with total_tokens of at most {max(limit - chunk - talk, 0)}, or lower max_tokens"
        )


def _no_room(synthesizer: Synthesizer, error: ChunkerError) -> ChunkerError:
    """With the names of the settings, which the chunker does not know."""
    settings = {
        "max_chunk_tokens": synthesizer.chunker.max_tokens,
        "num_rounds": synthesizer.num_rounds,
        "question_max_tokens": synthesizer.question.max_new_tokens,
        "answer_max_tokens": synthesizer.answer.max_new_tokens,
    }
    named = ", ".join(f"{name}={value}" for name, value in settings.items())
    return ChunkerError(f"{named}: lower one of these: {str(error).partition(': ')[2]}")
