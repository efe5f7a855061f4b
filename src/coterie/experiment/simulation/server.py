"""A server of our own for a simulation: started, waited for, and stopped at the end.

``python -m coterie.experiment.simulation.server`` is ``coterie`` that ends with its standard input,
so that no server outlives a simulation that is killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.errors import ServerError

STORE, LOG = "store.db", "server.log"
START_SECONDS, STOP_SECONDS = 120.0, 40.0
LOOK_SECONDS = 0.05


@contextmanager
def own_server(
    model: Path, arms: Mapping[str, Path], experiment: Path, folder: Path
) -> Iterator[str]:
    """Serve the arms of an experiment on a free port of this machine; yields the URL.

    Parameters
    ----------
    model, arms
        Folders of models, as ``coterie serve`` takes them.
    experiment
        The TOML file.
    folder
        Gets the store ``store.db`` and the log ``server.log``.

    Raises
    ------
    ServerError
        It did not start; the message is the server's.
    """
    command = [sys.executable, "-m", __name__, "serve", str(model.resolve()), "--port", "0"]
    for name, path in arms.items():
        command += ["--arm", f"{name}={path.resolve()}"]
    command += ["--experiment", str(experiment.resolve()), "--database", f"sqlite:///{STORE}"]
    command += ["--no-access-log", "--watch-seconds", "0", "--threads", "1"]
    log = folder / LOG
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=subprocess.DEVNULL,
            stderr=lines,
            start_new_session=True,  # a Ctrl-C is ours to heed; we stop the server then
        )
    try:
        yield f"http://127.0.0.1:{_port(process, log)}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    end = time.monotonic() + START_SECONDS
    lines: list[str] = []
    while time.monotonic() < end:
        ended = process.poll() is not None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for facts in map(_facts, lines):
            if facts.get("message") == "ready":
                return int(facts["port"])
        if ended:
            raise ServerError(f"The server did not start: {_last(lines)}")
        time.sleep(LOOK_SECONDS)
    raise ServerError(
        f"The server was not ready in {START_SECONDS:g} s. Its last words: {_last(lines)}"
    )


def _last(lines: Sequence[str]) -> str:
    return lines[-1].removeprefix("coterie: ") if lines else "none"


def _facts(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:  # not yet a whole line, or text
        return {}
    return found if isinstance(found, dict) else {}


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from coterie.cli import main

    threading.Thread(target=_end_with_input, daemon=True).start()
    sys.exit(main())
