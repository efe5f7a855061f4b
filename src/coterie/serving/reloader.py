"""New versions of the models, served without a failed request."""

import asyncio
import logging
import sys
from contextlib import suppress

from coterie.memory import freeze_garbage, give_back_freed_memory
from coterie.serving.fleet import Fleet
from coterie.serving.metrics import Metrics

log = logging.getLogger(__name__)


class Reloader:
    """Puts new versions in the fleet, when asked or by itself.

    Parameters
    ----------
    fleet
        The models served.
    metrics
        Where it counts.
    seconds
        Between two looks at the models' folders; 0: only when asked.
    """

    def __init__(self, fleet: Fleet, metrics: Metrics, seconds: float) -> None:
        self._fleet, self._metrics, self._seconds = fleet, metrics, seconds
        self._failed: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch for new versions, if the settings say so."""
        if self._seconds:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def reload(self, *, again: bool = True) -> None:
        """Serve new versions of the models; requests under way keep theirs.

        ``again``: also try versions that could not be loaded before.
        """
        async with self._one_at_a_time:
            tried = {} if again else self._failed
            had_pytorch = "torch" in sys.modules
            found = await asyncio.to_thread(self._fleet.newer, tried=tried)
            for name, model in found.items():
                self._metrics.reload(name, served=not isinstance(model, str))
                if isinstance(model, str):
                    self._failed[name] = model
                    continue
                self._failed.pop(name, None)
                self._fleet.models[name] = model
                self._metrics.model(name, model.version)
                log.info("new version", extra={"model": name, "version": model.version})
            if found:  # else fragments of old models add up
                await asyncio.to_thread(give_back_freed_memory)
            if not had_pytorch and "torch" in sys.modules:  # for a baseline
                freeze_garbage()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.reload(again=False)
            except Exception:
                log.exception("the watch over new versions goes on after a fault")
