import signal
import threading

import pytest
from small_run import experiment, run

from coterie.training.interrupt import interruptible


def test_the_first_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as requested:
        assert not requested()
        signal.raise_signal(signal.SIGINT)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_before_is_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interruptible():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


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
