"""Talks whose requests share one batch: rows that have ended leave it, and waiting ones enter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic

from lit_cartridges.teachers.row import Row
from lit_cartridges.teachers.row_batch import RowBatch
from lit_cartridges.teachers.teacher import Completion, Request, T, Talk, TeacherError


@dataclass(eq=False)
class _Open(Generic[T]):
    """A talk that is going on.

    Args:
        number: its place among all talks.
        size: prompts of its first request.
        rows: those of its last request, in the order of the prompts.
    """

    number: int
    talk: Talk[T]
    size: int = 0
    rows: tuple[Row, ...] = ()


class ContinuousTalks(Generic[T]):
    """Holds talks in a batch of at most ``max_rows`` rows.

    A talk's next request goes before those of talks that have not begun, since what it reads is there. Talks begin while rows
    are wanting, but of no more than twice ``max_rows`` prompts at once, which bounds the contexts that are held.

    Args:
        rows_of: the rows of a request; raises `TeacherError` where it cannot be completed.
        alone: hold one talk at a time.
    """

    def __init__(
        self,
        talks: Iterable[Talk[T]],
        batch: RowBatch,
        *,
        rows_of: Callable[[Request], list[Row]],
        max_rows: int,
        alone: bool = False,
    ) -> None:
        self.batch, self.rows_of, self.max_rows, self.alone = batch, rows_of, max_rows, alone
        self._talks = enumerate(talks)
        self._open: list[_Open[T]] = []
        self._waiting: deque[Row] = deque()
        self._talk_of: dict[Row, _Open[T]] = {}
        self._completed: dict[Row, Completion] = {}
        self._ended: dict[int, Callable[[], T]] = {}
        self._next = 0
        self._failed = False

    def results(self) -> Generator[Callable[[], T] | None]:
        """After every step, each result whose turn it is, as what gives or raises it; and None where nothing has ended."""
        while True:
            self._fill()
            if not self.batch.rows and self._next not in self._ended:
                return
            if self.batch.rows:
                for row, finished in self.batch.step():
                    self._completed[row] = row.completion(finished=finished)
                    self._go_on_if_complete(self._talk_of[row])
            while self._next in self._ended:
                yield self._ended.pop(self._next)
                self._next += 1
            yield None

    def _fill(self) -> None:
        """Let rows enter: several at once, since reading their prompts is a call of its own."""
        free = self.max_rows - len(self.batch.rows)
        if self.batch.rows and free < max(1, self.max_rows // 4):
            return
        while len(self._waiting) < free and self._may_begin() and (talk := next(self._talks, None)):
            opened = _Open(*talk)
            self._open.append(opened)
            self._go_on(opened, lambda talk=opened.talk: next(talk))  # type: ignore[misc]
            opened.size = len(opened.rows)
        contexts = {row.context for opened in self._open for row in opened.rows if row.context is not None}
        self.batch.contexts.keep(contexts, self.batch)
        if entering := [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]:
            self.batch.enter(entering)

    def _may_begin(self) -> bool:
        if self._failed:
            return False
        going = sum(opened.size for opened in self._open)
        return not self._open if self.alone else going < 2 * self.max_rows

    def _go_on_if_complete(self, opened: _Open[T]) -> None:
        if all(row in self._completed for row in opened.rows):
            completions = [self._completed.pop(row) for row in opened.rows]
            for row in opened.rows:
                del self._talk_of[row]
            self._go_on(opened, lambda: opened.talk.send(completions))

    def _go_on(self, opened: _Open[T], ask: Callable[[], Request]) -> None:
        """Take the talk's next request, or its end."""
        opened.rows = ()
        try:
            while not opened.rows:
                request = ask()
                try:
                    opened.rows = tuple(self.rows_of(request))
                except TeacherError as error:
                    ask = lambda error=error: opened.talk.throw(error)  # type: ignore[misc]  # noqa: E731
                else:
                    ask = lambda: opened.talk.send([])  # noqa: E731 - a request without prompts
        except StopIteration as end:
            self._end(opened, lambda result=end.value: result)  # type: ignore[misc]
        except Exception as error:
            self._failed = True
            self._end(opened, lambda error=error: _raise(error))  # type: ignore[misc]
        else:
            self._talk_of |= dict.fromkeys(opened.rows, opened)
            self._waiting.extendleft(reversed(opened.rows)) if opened.size else self._waiting.extend(
                opened.rows
            )

    def _end(self, opened: _Open[T], result: Callable[[], T]) -> None:
        self._ended[opened.number] = result
        self._open.remove(opened)


def _raise(error: Exception) -> Any:
    raise error
