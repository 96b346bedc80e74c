"""The frozen model itself as the teacher, in the training process.

One prefill of a chunk is shared by all conversations about it, questions and answers alike, and conversations about several
chunks are decoded in one batch (`row_batch`). The top-k log-probabilities are taken from the logits while the answer is
decoded, so that no second pass is needed.

With a cascade, what is in front of a prompt may be longer than the model's context: it is streamed through a cache of fixed
size, and what that holds at the end is read as any prefill is. So are chunks that are too long, and so is the whole corpus
where it stands in front of every chunk (`data.source.corpus_before_chunk`): then the positions are

    opening and corpus, as the cascade keeps them | the chunk, in full | a prompt and its reply
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList, PretrainedConfig, PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.models.position_limit import max_positions, rotates_by_length
from lit_cartridges.models.readable import unwrapped
from lit_cartridges.settings import Count, checked
from lit_cartridges.teachers.contexts import Contexts
from lit_cartridges.teachers.continuous import ContinuousTalks
from lit_cartridges.teachers.row import Row
from lit_cartridges.teachers.row_batch import RowBatch
from lit_cartridges.teachers.teacher import Completion, Request, Sampling, T, Talk, Teacher, TeacherError
from lit_cartridges.teachers.token_choice import makers_limits


class LocalTeacher(Teacher):
    """Completes prompts with the model that `bind` hands over.

    Args:
        max_rows: prompts decoded at once; more wait for a place. At most so many conversations are under way twice over, and
            the keys and values of their chunks are held: fewer rows take less memory.
        cascade: the cache through which the corpus is read in front of every chunk (`corpus_before_chunk`), once for all
            chunks; otherwise a chunk that exceeds the model's context together with the longest prompt and reply. None reads
            everything in full, and refuses what does not fit. A deviation from arXiv 2406.17808: what is read behind what was
            kept displaces none of it.
    """

    runs_model = True

    @checked
    def __init__(self, *, max_rows: Count = 64, cascade: CascadeOptions | None = None) -> None:
        self.max_rows, self.cascade = max_rows, cascade
        self.reads_any_length = cascade is not None
        self._model: PreTrainedModel | None = None
        self._contexts = Contexts(cascade)
        self._idle: list[RowBatch] = []  # with its graphs, for the next time

    def expect_prefix(self, ids: Sequence[int], *, opening_tokens: int) -> None:
        """Stream these through the cascade, where there is one, with the opening among its sinks."""
        self._contexts.expect(tuple(int(i) for i in ids), opening_tokens=opening_tokens)

    def prefix_positions(self, num_tokens: int) -> int:
        """See `Teacher.prefix_positions`."""
        return self._contexts.kept_positions(num_tokens)

    def check_model(self, config: PretrainedConfig) -> None:
        """See `Teacher.check_model`."""
        if self._contexts.expected_options is not None:
            self._contexts.expected_options.new_cache(config)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Teacher.settings`."""
        return {} if self.cascade is None else {"cascade": asdict(self.cascade)}

    def bind(self, model: Any, tokenizer: Any) -> None:
        """Take the frozen model. Prompts come as token ids, so no tokenizer is needed here."""
        self.close()
        self._model = model

    def close(self) -> None:
        """Give back all that is held on the device."""
        self.forget()
        self._idle, self._contexts.pool = [], None

    def forget(self) -> None:
        """Read every context anew from now on. What decoding has made, room and CUDA graphs, is kept for the next time."""
        self._contexts.forget()

    def complete(
        self,
        *,
        context_ids: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        top_k: int = 0,
        min_mass: float = 0.99,
    ) -> list[Completion]:
        """See `Teacher.complete`."""
        request = Request(
            context_ids=context_ids,
            prompts=prompts,
            sampling=sampling,
            seeds=seeds,
            top_k=top_k,
            min_mass=min_mass,
        )
        return next(self.converse([_asked(request)]))

    def converse(self, talks: Iterable[Talk[T]]) -> Iterator[T]:
        """See `Teacher.converse`; the prompts of all talks share one batch."""
        model = self._bound()
        batch = self._idle.pop() if self._idle else RowBatch(model, self._contexts)
        batch.begin(self.stop_token_ids)
        whole = True
        results = ContinuousTalks(
            talks,
            batch,
            rows_of=partial(self._rows, limited=self._limited()),
            max_rows=self.max_rows,
            alone=rotates_by_length(model.config),
        ).results()
        try:
            while True:
                # Left whenever a result is handed out: who takes it may use the model in other ways. Not in a caller's autocast:
                # the model reads in the dtype that it was loaded in.
                own = torch.autocast(model.device.type, enabled=False)
                with torch.no_grad(), reads_prefixes(model), own:
                    try:
                        while (result := next(results)) is None:
                            pass
                    except StopIteration:
                        return
                    except BaseException:
                        whole = False
                        raise
                yield result()
        finally:
            self._contexts.release(batch)
            if whole and model.device.type == "cuda":
                # What was launched for nobody too: the next to ask may be another thread, in a stream of its own.
                torch.cuda.current_stream(model.device).synchronize()
            # A batch that broke off, for want of memory or by an interrupt, may have grown in some layers alone.
            if whole and batch.steps.pooled and self._contexts.pool is batch.steps.pool:
                self._idle.append(batch)

    def _rows(self, request: Request, *, limited: bool) -> list[Row]:
        """The rows of a request; ``limited`` says that the model's makers limit what it may write.

        Raises:
            TeacherError: one of them does not fit the model's positions, or is empty; more is to be recorded than there is.
        """
        if not request.prompts:
            return []
        model, ids = self._bound(), tuple(int(i) for i in request.context_ids)
        if not all(map(len, request.prompts)):
            raise TeacherError("a prompt has no tokens; give at least one to each")
        if request.top_k > (known := model.config.get_text_config().vocab_size):
            raise TeacherError(f"top_k={request.top_k} is more than the model's {known} tokens; record fewer")
        longest = max(len(prompt) for prompt in request.prompts)
        context = self._contexts.of(model, ids, longest + request.sampling.max_new_tokens)
        read_tokens = self._contexts.positions(context)
        new_tokens = self._fitting_length(model, read_tokens + longest, request.sampling.max_new_tokens)
        return [
            Row(
                prompt=[int(i) for i in prompt],
                context=context if ids else None,
                read_tokens=read_tokens,
                temperature=request.sampling.temperature,
                seed=seed,
                max_new_tokens=new_tokens,
                top_k=request.top_k,
                min_mass=request.min_mass,
                limits=self._limits(prompt, new_tokens) if limited else None,
            )
            for prompt, seed in zip(request.prompts, request.seeds, strict=True)
        ]

    def _limited(self) -> bool:
        return self._limits([0], 2) is not None

    def _limits(self, prompt: Sequence[int], new_tokens: int) -> LogitsProcessorList | None:
        return makers_limits(
            self._bound(), prompt, stop_token_ids=self.stop_token_ids, max_new_tokens=new_tokens
        )

    def _bound(self) -> PreTrainedModel:
        if self._model is None:
            raise TeacherError("teacher=LocalTeacher has no model yet; call bind(model, tokenizer) first")
        return unwrapped(self._model)

    @staticmethod
    def _fitting_length(model: PreTrainedModel, used: int, wanted: int) -> int:
        limit = max_positions(model.config) or used + wanted
        if used >= limit:
            raise TeacherError(
                f"chunk and prompt take {used} tokens, and the model has max_position_embeddings={limit}; "
                "lower the chunker's max_tokens, or give the teacher a cascade that leaves room"
            )
        return min(wanted, limit - used)


def _asked(request: Request) -> Talk[list[Completion]]:
    return (yield request)
