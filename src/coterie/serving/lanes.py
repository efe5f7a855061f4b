"""Lanes: requests queue up, one thread takes as many as there are and answers them at once.

While the thread works the next batch gathers, so batches grow with the load by themselves and a
lone request does not wait. The queue is bounded: what does not fit is refused at once, which costs
the server nothing and tells the caller when to come back.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

Job = TypeVar("Job")
Result = TypeVar("Result")
Answers = Sequence[Result | Exception]
Observe = Callable[[str, int, float], None]
RETRY_SECONDS = 1
LAST_SECONDS = 1.0  # that a thread whose jobs were all given up may take to end


class Overloaded(Exception):
    """The lane has no room, or was too slow, or what it needs is away: come back later.

    Parameters
    ----------
    why
        For whoever asked.
    retry_seconds
        When to come back.
    """

    def __init__(self, why: str, *, retry_seconds: int = RETRY_SECONDS) -> None:
        super().__init__(why)
        self.retry_seconds = retry_seconds


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Job, Result]):
    job: Job
    answer: "asyncio.Future[Result]"
    since: float


class Lane(Generic[Job, Result]):
    """A bounded queue in front of one thread that answers batches.

    All methods are for the event loop's thread.

    Parameters
    ----------
    name
        Of the thread, and in the metrics.
    work
        Answers a batch, in its thread: one result or exception per job, in order. If it raises,
        every job of the batch gets that exception.
    batch_size
        Jobs at once, at most.
    queue_size
        Jobs that may wait, beyond those being answered.
    timeout
        Seconds after which a job is given up; a job that nobody waits for any more is not begun.
    observe
        Told the lane's name, the size of each batch and the seconds that it took.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job]], Answers[Result]],
        *,
        batch_size: int,
        queue_size: int,
        timeout: float,
        observe: Observe = lambda name, size, seconds: None,
    ) -> None:
        self.name = name
        self._work = work
        self._batch_size, self._queue_size = batch_size, queue_size
        self._timeout, self._observe = timeout, observe
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._accepted: deque[_Waiting[Job, Result]] = deque()  # the oldest without an answer first
        self._alarm: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = False
        self._batches: SimpleQueue[list[_Waiting[Job, Result]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    async def ask(self, job: Job) -> Result:
        """The answer to one job.

        Raises
        ------
        Overloaded
            The queue is full, or the time is up.
        """
        (answer,) = self._accept([job])
        return await answer

    async def ask_all(self, jobs: Sequence[Job]) -> list[Result]:
        """The answers to some jobs, which are all accepted or all refused; errors as for one."""
        if not jobs:
            return []
        if len(jobs) == 1:
            return [await self.ask(jobs[0])]
        results = await asyncio.gather(*self._accept(jobs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return cast(list[Result], results)

    async def close(self) -> None:
        """Answer what is waiting, then end the thread; work without an end is left behind."""
        self._forget_answered()  # also what nobody waits for any more
        await self._idle.wait()  # no longer than the time-out
        if self._loop is not None:
            self._batches.put(None)
            await asyncio.to_thread(self._thread.join, LAST_SECONDS)

    def _accept(self, jobs: Sequence[Job]) -> "list[asyncio.Future[Result]]":
        if len(self._queue) + len(jobs) > self._queue_size:
            raise Overloaded(f"{len(self._queue)} requests are waiting for {self.name} already")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        now = time.monotonic()
        new = [_Waiting(job, self._loop.create_future(), now) for job in jobs]
        self._queue.extend(new)
        self._accepted.extend(new)
        self._idle.clear()
        if self._alarm is None:
            self._alarm = self._loop.call_later(self._timeout, self._give_up)
        self._start()
        return [waiting.answer for waiting in new]

    def _give_up(self) -> None:
        """Refuse the jobs whose time is up; one timer for all, as all have the same time."""
        assert self._loop is not None
        due = time.monotonic() - self._timeout
        for waiting in self._accepted:
            if waiting.since > due:
                break
            if not waiting.answer.done():
                late = Overloaded(f"{self.name} took longer than {self._timeout:g} s")
                waiting.answer.set_exception(late)
        self._forget_answered()
        self._alarm = None
        if self._accepted:
            left = self._accepted[0].since - due
            self._alarm = self._loop.call_later(left, self._give_up)

    def _forget_answered(self) -> None:
        while self._accepted and self._accepted[0].answer.done():
            self._accepted.popleft()
        while self._queue and self._queue[0].answer.done():
            self._queue.popleft()
        if not self._accepted:
            self._idle.set()

    def _start(self) -> None:
        """Begin a batch, if the thread is free and somebody waits."""
        if self._busy:
            return
        batch: list[_Waiting[Job, Result]] = []
        while self._queue and len(batch) < self._batch_size:
            waiting = self._queue.popleft()
            if not waiting.answer.done():  # nobody has given it up
                batch.append(waiting)
        if batch:
            self._busy = True
            self._batches.put(batch)

    def _serve(self) -> None:
        """In the lane's thread."""
        assert self._loop is not None
        while (batch := self._batches.get()) is not None:
            began = time.monotonic()
            try:
                answers = self._work([waiting.job for waiting in batch])
            except Exception as error:
                answers = [error] * len(batch)
            self._observe(self.name, len(batch), time.monotonic() - began)
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, answers)
            except RuntimeError:  # the loop has ended without waiting for this
                return

    def _deliver(self, batch: list[_Waiting[Job, Result]], answers: Answers[Result]) -> None:
        self._busy = False
        self._start()  # first, so that the thread works while answers are written
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
        self._forget_answered()
