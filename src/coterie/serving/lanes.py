"""Lanes: requests queue up, one thread takes as many as there are and answers them at once.

While the thread works the next batch gathers, so batches grow with the load by themselves and a
lone request does not wait. The queue is bounded: what does not fit is refused at once, which costs
the server nothing and tells the caller when to come back.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

Job = TypeVar("Job")
Result = TypeVar("Result")
Answers = Sequence[Result | Exception]
Observe = Callable[[str, int, float], None]


class Overloaded(Exception):
    """The lane has no room, or was too slow, or what it needs is away: come back later."""


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
    wait
        Seconds that the oldest job of a batch that is not full may wait for others.
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
        wait: float = 0.0,
        observe: Observe = lambda name, size, seconds: None,
    ) -> None:
        self.name = name
        self._work = work
        self._batch_size, self._queue_size = batch_size, queue_size
        self._timeout, self._wait = timeout, wait
        self._observe = observe
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

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
        async with self._in_time():
            return await answer

    async def ask_all(self, jobs: Sequence[Job]) -> list[Result]:
        """The answers to some jobs, which are all accepted or all refused; errors as for one."""
        if not jobs:
            return []
        if len(jobs) == 1:
            return [await self.ask(jobs[0])]
        answers = self._accept(jobs)
        async with self._in_time():
            results = await asyncio.gather(*answers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return cast(list[Result], results)

    async def close(self) -> None:
        """Answer what is waiting, then end the thread."""
        await self._idle.wait()
        self._thread.shutdown(wait=True)

    def _accept(self, jobs: Sequence[Job]) -> "list[asyncio.Future[Result]]":
        if len(self._queue) + len(jobs) > self._queue_size:
            raise Overloaded(f"{len(self._queue)} requests are waiting for {self.name} already")
        loop, now = asyncio.get_running_loop(), time.monotonic()
        answers: list[asyncio.Future[Result]] = [loop.create_future() for _ in jobs]
        self._queue.extend(
            _Waiting(job, answer, now) for job, answer in zip(jobs, answers, strict=True)
        )
        self._start()
        return answers

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise Overloaded(f"{self.name} took longer than {self._timeout:g} s") from None

    def _start(self) -> None:
        """Begin a batch, if the thread is free and the batch full or its time come."""
        while self._queue and self._queue[0].answer.done():  # given up
            self._queue.popleft()
        if self._busy:
            return
        if not self._queue:
            self._idle.set()
            return
        self._idle.clear()
        missing = self._queue[0].since + self._wait - time.monotonic()
        if len(self._queue) < self._batch_size and missing > 0:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(missing, self._time_has_come)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Waiting[Job, Result]] = []
        while self._queue and len(batch) < self._batch_size:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        self._busy = True
        self._thread.submit(self._run, batch, asyncio.get_running_loop())

    def _time_has_come(self) -> None:
        self._timer = None
        self._start()

    def _run(self, batch: list[_Waiting[Job, Result]], loop: asyncio.AbstractEventLoop) -> None:
        """In the lane's thread."""
        began = time.monotonic()
        try:
            answers = self._work([waiting.job for waiting in batch])
        except Exception as error:
            answers = [error] * len(batch)
        self._observe(self.name, len(batch), time.monotonic() - began)
        loop.call_soon_threadsafe(self._deliver, batch, answers)

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
