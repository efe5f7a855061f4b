import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from small_run import experiment, run

from coterie.training.interrupt import SIGNALS, interruptible, stoppable

Block = Callable[[], AbstractContextManager[object]]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_noted_and_the_second_raises(number: int) -> None:
    before = handlers()
    with interruptible() as requested:
        assert not requested()
        signal.raise_signal(number)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


@pytest.mark.parametrize("block", [interruptible, stoppable])
def test_the_handlers_before_are_put_back_after_an_error(block: Block) -> None:
    before = handlers()
    within: list[object] = []

    def fail() -> None:
        with block():
            within.extend(handlers())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert within != before
    assert handlers() == before


@pytest.mark.parametrize("number", SIGNALS)
def test_stoppable_raises_even_what_was_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stoppable():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_training_runs_outside_the_main_thread() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run(experiment(epochs=1))))
    thread.start()
    thread.join()
    assert len(results) == 1
    assert not results[0].interrupted


def test_an_error_does_not_hide_that_sigint_came() -> None:
    def asked_to_stop_then_failing() -> None:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt) as caught:
        asked_to_stop_then_failing()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
