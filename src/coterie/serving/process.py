"""The process: a socket, signals, and a server that ends when it has answered everything."""

import asyncio
import logging
import math
import signal
import socket
import sys
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from coterie.errors import StorageError
from coterie.memory import freeze_garbage, keep_freed_memory
from coterie.serving.app import create_app
from coterie.serving.fleet import Fleet
from coterie.serving.head import BoundedHead
from coterie.serving.keys import VARIABLE, Keys
from coterie.serving.log import set_up
from coterie.serving.metrics import Metrics
from coterie.serving.service import Service
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep idle connections, so that they close first
LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})
ACCEPTS = 8  # connections per turn of the loop, beyond which they wait for the next
SWITCH_SECONDS = 0.0005  # the lanes' threads need the interpreter often and for short
log = logging.getLogger(__name__)


def bind(config: ServeConfig) -> socket.socket:
    """A socket that has the server's address, but does not listen: connections are refused yet.

    Raises
    ------
    StorageError
        The address is taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not while another listens
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        raise _not_ours(config, error) from error
    return bound


def run(
    config: ServeConfig, fleet: Fleet, store: Store, keys: Keys, listening: socket.socket
) -> None:
    """Serve until SIGTERM or SIGINT; returns when all that was accepted is answered.

    SIGHUP loads new versions of the models at once.

    Parameters
    ----------
    config, fleet, store, keys
        What is served to whom; the store is closed at the end.
    listening
        As :func:`bind` gives it.

    Raises
    ------
    StorageError
        Another server listens at the address since it was bound.
    """
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        store.close()
        raise _not_ours(config, error) from error
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_freed_memory()
    set_up()
    if not keys and config.host not in LOCAL:
        log.warning("anyone who reaches this address may ask", extra={"set": VARIABLE})
    _warn(fleet)
    service = Service(config, fleet, store, Metrics())
    settings = uvicorn.Config(
        create_app(service, keys),
        http=BoundedHead,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing asks where a request comes from
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(config.stop_seconds),
    )
    host, port = listening.getsockname()[:2]
    models = {model.name: model.version for model in fleet.models.values()}
    facts = {"host": host, "port": port, "models": models, "store": str(store)}
    _Server(settings, service, facts).run(sockets=listeners(listening))
    log.info("stopped")


def listeners(listening: socket.socket) -> list[socket.socket]:
    """The socket and copies of it: uvloop accepts one connection of each per turn of its loop.

    With one alone, clients that do not keep their connections are not let in when turns get long,
    which is when there is much to do (libuv's pull request 3696; measured).
    """
    copies = 0 if sys.platform == "win32" else ACCEPTS - 1  # asyncio's own loop accepts them all
    return [listening, *(listening.dup() for _ in range(copies))]


def _warn(fleet: Fleet) -> None:
    """Say what is allowed and yet can give nothing."""
    for one in fleet.experiments.values():
        if not one.start <= datetime.now(UTC) < one.end:
            period = {"start": one.start.isoformat(), "end": one.end.isoformat()}
            log.warning("nobody is in an arm now", extra={"experiment": one.name, **period})
    for model in fleet.models.values():
        for name, barred in model.barred.items():
            if barred.all():
                facts = {"filter": name, "model": model.name}
                log.warning("a filter lets no item through", extra=facts)


class _Server(uvicorn.Server):
    """uvicorn, whose end by a signal is a success, and which reloads models on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service, facts: dict[str, Any]) -> None:
        super().__init__(config)
        self._service, self._facts = service, facts
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        await super().startup(sockets)
        freeze_garbage()
        log.info("ready", extra=self._facts)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for ending in HANDLED_SIGNALS:
            signal.signal(ending, signal.SIG_DFL)  # the next one ends the process at once
        self.should_exit = True
        self._service.stop()

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._service.reloader.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def _not_ours(config: ServeConfig, error: OSError) -> StorageError:
    return StorageError(
        f"{config.host}:{config.port} cannot be listened on: {error.strerror}. Choose another "
        "--port, or 0 for a free one."
    )
