"""One explanation in the engine's queue: computed pass by pass by the engine's thread, awaited by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError

from ...explanation.explanation import Explanation
from .job import Job, QueueTimeoutError


class ExplanationJob:
    """An explanation with the adapter and the deadline of the job whose answer it explains."""

    def __init__(self, answered: Job, steps: Generator[None, None, Explanation]) -> None:
        self.adapter = answered.adapter
        self._answered = answered
        self._steps = steps
        self._result: Future[Explanation] = Future()

    @property
    def ended(self) -> bool:
        """Return True if it is complete, has failed or was cancelled."""
        return self._result.done()

    @property
    def late(self) -> bool:
        """Return True if its time limit has passed."""
        return self._answered.late

    # called by the engine's thread

    def advance(self) -> None:
        """Compute one forward pass, unless the time is up."""
        if self.late:
            return self.fail(QueueTimeoutError("The request's time was up before it was explained. Try again later."))
        try:
            next(self._steps)
        except StopIteration as ended:
            with contextlib.suppress(InvalidStateError):  # it was cancelled meanwhile
                self._result.set_result(ended.value)
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Pass an error to the reader."""
        with contextlib.suppress(InvalidStateError):
            self._result.set_exception(error)

    # called by the reader

    async def result(self) -> Explanation:
        """Return the explanation; cancelling this ends its computation within one forward pass.

        Raises:
            QueueTimeoutError: its time was up.
            UsageError: the answer does not contain the word.
        """
        return await asyncio.wrap_future(self._result)
