"""Lanes: batches, bounds, time-outs, and the end."""

import asyncio
import threading

import pytest

from coterie.serving.lanes import Lane, Overloaded


def lane(work, **settings):
    settings = {"batch_size": 4, "queue_size": 8, "timeout": 5.0, **settings}
    return Lane("test", work, **settings)


def run(test):
    asyncio.run(asyncio.wait_for(test, 20))


class Gate:
    """Work that waits to be let through, and notes its batches."""

    def __init__(self):
        self.open = threading.Event()
        self.batches = []

    def __call__(self, jobs):
        self.batches.append(list(jobs))
        assert self.open.wait(10)
        return [job * 10 for job in jobs]


def test_answers_in_order_and_by_batches_that_grow_while_the_thread_works():
    async def test():
        gate = Gate()
        under = lane(gate)
        asked = [asyncio.ensure_future(under.ask(job)) for job in range(8)]
        while not gate.batches:
            await asyncio.sleep(0.001)
        gate.open.set()
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50, 60, 70]
        assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
        await under.close()

    run(test())


def test_what_does_not_fit_is_refused_at_once_whole_and_the_rest_is_answered():
    async def test():
        gate = Gate()
        under = lane(gate, queue_size=3)
        first = asyncio.ensure_future(under.ask(0))
        while not gate.batches:
            await asyncio.sleep(0.001)
        accepted = asyncio.ensure_future(under.ask_all([1, 2]))
        await asyncio.sleep(0)
        assert under.waiting == 2
        with pytest.raises(Overloaded, match="2 requests are waiting"):
            await under.ask_all([3, 4])
        assert under.waiting == 2
        last = asyncio.ensure_future(under.ask(5))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await under.ask(6)
        gate.open.set()
        assert (await first, await accepted, await last) == (0, [10, 20], 50)
        await under.close()

    run(test())


def test_too_slow_is_given_up_and_what_nobody_awaits_is_not_begun():
    async def test():
        gate = Gate()
        under = lane(gate, timeout=0.05)
        asked = [asyncio.ensure_future(under.ask(job)) for job in range(3)]
        for one in asked:
            with pytest.raises(Overloaded, match="longer than"):
                await one
        gate.open.set()
        await under.close()
        assert gate.batches == [[0]]

    run(test())


def test_an_exception_meets_the_job_or_the_batch_and_the_lane_goes_on():
    async def test():
        def work(jobs):
            if 13 in jobs:
                raise KeyError("all")
            return [ValueError("odd") if job % 2 else job for job in jobs]

        under = lane(work)
        assert await under.ask(2) == 2
        with pytest.raises(ValueError, match="odd"):
            await under.ask_all([2, 3])
        with pytest.raises(KeyError):
            await under.ask_all([12, 13])
        assert await under.ask(4) == 4
        assert await under.ask_all([]) == []
        await under.close()

    run(test())


def test_closing_answers_what_waits():
    async def test():
        gate = Gate()
        under = lane(gate)
        asked = [asyncio.ensure_future(under.ask(job)) for job in range(6)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(under.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        gate.open.set()
        await closing
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50]

    run(test())


def test_work_without_an_end_does_not_keep_the_lane_from_closing(monkeypatch):
    monkeypatch.setattr("coterie.serving.lanes.LAST_SECONDS", 0.05)

    async def test():
        gate = Gate()
        under = lane(gate, timeout=0.05, queue_size=2)
        asked = [asyncio.ensure_future(under.ask(0))]
        while not gate.batches:
            await asyncio.sleep(0.001)
        asked += [asyncio.ensure_future(under.ask(job)) for job in (1, 2)]
        assert [type(one) for one in await asyncio.gather(*asked, return_exceptions=True)] == [
            Overloaded
        ] * 3
        assert under.waiting == 0, "what was given up takes no room"
        await under.close()
        gate.open.set()

    run(test())


def test_each_job_has_the_whole_time():
    async def test():
        gate = Gate()
        under = lane(gate, timeout=0.3)
        loop = asyncio.get_running_loop()
        began = loop.time()
        early = asyncio.ensure_future(under.ask(0))
        await asyncio.sleep(0.2)
        late = asyncio.ensure_future(under.ask(1))
        with pytest.raises(Overloaded):
            await early
        assert loop.time() - began >= 0.3
        with pytest.raises(Overloaded):
            await late
        assert loop.time() - began >= 0.5
        gate.open.set()
        await under.close()

    run(test())


def test_batches_are_told_to_the_observer():
    async def test():
        seen = []
        under = lane(lambda jobs: jobs, observe=lambda *facts: seen.append(facts))
        await under.ask_all([1, 2, 3])
        await under.close()
        ((name, size, seconds),) = seen
        assert (name, size) == ("test", 3)
        assert 0 <= seconds < 5

    run(test())
