"""Talks with a teacher who lives elsewhere and answers several requests at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import Generic

from lit_cartridges.teachers.teacher import Completion, Request, T, Talk, TeacherError


class TalksInFlight(Generic[T]):
    """Holds talks, each with one request under way.

    Args:
        ask: sends a request.
        most_prompts: a further talk begins while fewer prompts are under way.
    """

    def __init__(
        self,
        talks: Iterable[Talk[T]],
        *,
        ask: Callable[[Request], Future[list[Completion]]],
        most_prompts: int,
    ) -> None:
        self.ask, self.most_prompts = ask, most_prompts
        self._talks = enumerate(talks)
        self._asked: dict[Future[list[Completion]], tuple[int, Talk[T], int]] = {}
        self._ended: dict[int, Callable[[], T]] = {}
        self._failed = False

    def results(self) -> Iterator[T]:
        """See `Teacher.converse`. Requests that nobody waits for any more are given up."""
        turn = 0
        try:
            while True:
                self._begin()
                if self._asked and turn not in self._ended:
                    for future in wait(self._asked, return_when=FIRST_COMPLETED).done:
                        number, talk, _ = self._asked.pop(future)
                        self._go_on(number, talk, future)
                elif turn not in self._ended:
                    return
                while turn in self._ended:
                    yield self._ended.pop(turn)()
                    turn += 1
        finally:
            for future in self._asked:
                future.cancel()

    def _begin(self) -> None:
        while not self._failed and sum(prompts for *_, prompts in self._asked.values()) < self.most_prompts:
            if (begun := next(self._talks, None)) is None:
                return
            self._go_on(*begun, None)

    def _go_on(self, number: int, talk: Talk[T], answer: Future[list[Completion]] | None) -> None:
        """Ask a talk's next request, or take its end."""
        try:
            request = next(talk) if answer is None else _answered(talk, answer)
        except StopIteration as end:
            self._ended[number] = lambda result=end.value: result  # type: ignore[misc]
        except Exception as error:
            self._failed = True
            self._ended[number] = lambda error=error: _raise(error)  # type: ignore[misc]
        else:
            self._asked[self.ask(request)] = number, talk, len(request.prompts)


def completed(future: Future[list[Completion]]) -> list[Completion]:
    """What was asked for.

    Raises:
        TeacherError: it could not be had, or the teacher was closed.
    """
    try:
        return future.result()
    except CancelledError:
        raise TeacherError("the teacher was closed while it was answering") from None


def _answered(talk: Talk[T], answer: Future[list[Completion]]) -> Request:
    try:
        completions = completed(answer)
    except TeacherError as error:
        return talk.throw(error)
    return talk.send(completions)


def _raise(error: Exception) -> T:  # type: ignore[type-var]
    raise error
