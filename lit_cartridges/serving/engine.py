"""The engine in process: one thread and one batch for all requests, whose rows enter and leave at any time.

The rows' memory is bounded by ``max_rows`` and by ``max_kv_tokens``, the rows times the longest of them, since each has a line of
the same length (`RowsCache`). A request waits, in the order of arrival, until it fits; when nothing is left to do, and where the
batch has grown into a shape that leaves no room for the next request, it is begun anew.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from threading import Condition, Thread
from typing import Any

import torch

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.attention.prefix_pool import PrefixPool
from lit_cartridges.attention.rows_reading import Prefix
from lit_cartridges.models.position_limit import rotates_by_length
from lit_cartridges.serving.choice import ServedChoice, ServedRow
from lit_cartridges.serving.job import EngineError, Job, Token, row_seed
from lit_cartridges.serving.residents import Resident
from lit_cartridges.teachers.row_batch import RowBatch
from lit_cartridges.teachers.token_choice import makers_limits

_log = logging.getLogger(__name__)


class _Prefixes:
    """What rows call their context is the resident itself, which its job gives back."""

    pool: PrefixPool[Resident] | None = None

    def read(self, model: Any, context: Resident) -> Prefix:
        return context.prefix

    def keep(self, contexts: Collection[Resident], reader: object) -> None:
        """See `ReadsContexts`."""


class LocalEngine:
    """See the module.

    Args:
        max_rows: replies that are written at once.
        max_kv_tokens: rows times the longest prompt and reply.
    """

    def __init__(
        self, model: Any, *, stop_token_ids: Sequence[int], max_rows: int, max_kv_tokens: int
    ) -> None:
        self.model, self.stop_token_ids = model, tuple(stop_token_ids)
        self.max_rows, self.max_kv_tokens = max_rows, max_kv_tokens
        self._alone = rotates_by_length(model.config)
        self._limited = (
            makers_limits(model, [0], stop_token_ids=self.stop_token_ids, max_new_tokens=2) is not None
        )
        self._changed = Condition()
        self._waiting: deque[Job] = deque()
        self._cancelled: set[Job] = set()
        self._stopping: EngineError | None = None
        self._new_batch()
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, why: str = "the server is stopping") -> None:
        """End all jobs with an error, and the thread."""
        with self._changed:
            self._stopping = EngineError(why)
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether jobs are worked on."""
        return self._thread.is_alive() and self._stopping is None

    @property
    def rows(self) -> int:
        """In the batch."""
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        """Jobs that are not yet in the batch."""
        return len(self._waiting)

    def holds(self, *, n: int, reach: int) -> bool:
        """Whether such a job can ever be worked on."""
        return n <= self.max_rows and n * reach <= self.max_kv_tokens

    def submit(self, job: Job) -> None:
        """Work on the job as soon as there is room.

        Raises:
            EngineError: the engine has ended.
        """
        with self._changed:
            if not self.alive:
                raise self._stopping or EngineError("the engine has ended; start the server again")
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Let the job go; nothing happens where it has ended."""
        with self._changed:
            self._cancelled.add(job)
            self._changed.notify()

    def _run(self) -> None:
        # Not in anybody's autocast: the model reads in the dtype that it was loaded in.
        own = torch.autocast(self.model.device.type, enabled=False)
        try:
            with torch.no_grad(), reads_prefixes(self.model), own:
                while self._wait():
                    self._drop_cancelled()
                    self._enter()
                    if self._batch.rows:
                        self._step()
        except BaseException as error:
            _log.exception("the engine has ended")
            self._stopping = EngineError(f"the engine has ended: {type(error).__name__}")
        finally:
            with self._changed:
                left = [*self._waiting, *self._open()]
                self._waiting.clear()
            for job in left:
                self._end(job, self._stopping or EngineError("the engine has ended"))

    def _wait(self) -> bool:
        """Until there is something to do; False where that is to end."""
        with self._changed:
            if not self._batch.rows and not self._waiting and self._peak != (0, 0):
                self._new_batch()  # gives its memory back
            while not (self._stopping or self._waiting or self._batch.rows):
                self._cancelled.clear()
                self._changed.wait()
            return self._stopping is None

    def _open(self) -> list[Job]:
        """Jobs in the batch."""
        return list(dict.fromkeys(row.owner for row in self._batch.rows if isinstance(row, ServedRow)))

    def _new_batch(self) -> None:
        # Without static shapes: a served row's choice is made of what its client asked for.
        self._batch = RowBatch(self.model, _Prefixes(), choice=ServedChoice, pools=False)
        self._batch.begin(self.stop_token_ids)
        self._peak = 0, 0  # rows and reach that its memory is made for

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            dropped = [job for job in self._waiting if job in cancelled]
            self._waiting = deque(job for job in self._waiting if job not in cancelled)
        rows = {row for row in self._batch.rows if isinstance(row, ServedRow) and row.owner in cancelled}
        open_ = [job for job in self._open() if job in cancelled]
        if rows:
            self._batch.leave(rows)
        for job in dropped + open_:
            self._end(job, None)

    def _enter(self) -> None:
        """Take the jobs in that have waited longest and fit."""
        entering: list[Job] = []
        while self._waiting and self._fits(self._waiting[0], sum(job.n for job in entering)):
            with self._changed:
                entering.append(self._waiting.popleft())
        try:
            self._read(entering)
        except Exception as error:  # one by one, so that it is told to the one that it is about
            if len(entering) == 1:
                self._fail(entering, error)
                return
            for job in entering:
                try:
                    self._read([job])
                except Exception as error:
                    self._fail([job], error)

    def _read(self, jobs: Sequence[Job]) -> None:
        rows = [row for job in jobs for row in self._rows_of(job)]
        if rows:
            self._batch.enter(rows)

    def _fits(self, job: Job, entering: int) -> bool:
        """Whether the job can enter beside so many rows that will."""
        here = len(self._batch.rows) + entering
        if here and self._alone:
            return False
        for _ in range(2):
            rows, reach = max(self._peak[0], here + job.n), max(self._peak[1], job.reach)
            if here + job.n <= self.max_rows and rows * reach <= self.max_kv_tokens:
                self._peak = rows, reach
                return True
            if here:
                return False
            self._new_batch()
        return True  # what never fits is refused before (`holds`)

    def _rows_of(self, job: Job) -> list[ServedRow]:
        limits, job.left = None, job.n
        if self._limited:
            limits = makers_limits(
                self.model, job.prompt, stop_token_ids=self.stop_token_ids, max_new_tokens=job.max_new_tokens
            )
        return [
            ServedRow(
                prompt=list(job.prompt),
                context=job.resident,  # type: ignore[arg-type]
                read_tokens=0 if job.resident is None else job.resident.num_tokens,
                temperature=job.temperature,
                seed=row_seed(job.seed, index),
                max_new_tokens=job.max_new_tokens,
                top_k=0,
                min_mass=1.0,
                limits=limits,
                owner=job,
                index=index,
                changes=job.changes,
                top_p=job.top_p,
                logprobs=job.logprobs,
            )
            for index in range(job.n)
        ]

    def _step(self) -> None:
        rows = [row for row in self._batch.rows if isinstance(row, ServedRow)]
        try:
            ended = dict(self._batch.step())
        except Exception as error:
            jobs = self._open()
            self._new_batch()
            self._fail(jobs, error)
            return
        told: dict[Job, list[Token]] = {}
        broken = {row.owner for row in rows if row.broken}
        for row in rows:
            end = None if row not in ended else "stop" if ended[row] else "length"
            noted = row.noted[-1] if row.noted else None
            told.setdefault(row.owner, []).append(Token(row.index, row.reply[-1], end, noted))
            row.owner.left -= end is not None
        for job, tokens in told.items():
            if job not in broken:
                self._tell(job, tokens)
                if job.left == 0:
                    job.ended()
        if broken:
            why = EngineError("the model's scores behind this cartridge and prompt are no numbers")
            self._fail(list(broken), why)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        _log.warning("%s: %s", type(error).__name__, error)
        rows = {row for row in self._batch.rows if isinstance(row, ServedRow) and row.owner in jobs}
        if rows:
            self._batch.leave(rows)
        told = (
            error
            if isinstance(error, EngineError)
            else EngineError(f"the engine failed: {type(error).__name__}")
        )
        for job in jobs:
            self._end(job, told)

    def _end(self, job: Job, error: EngineError | None) -> None:
        """Before the last of its rows has."""
        if error is not None:
            self._tell(job, error)
        job.ended()

    def _tell(self, job: Job, what: list[Token] | EngineError) -> None:
        try:
            job.tell(what)
        except RuntimeError:  # its event loop is closed, and nobody listens
            self.cancel(job)
