"""How a server listens, how much it accepts at once, and which items lists may hold."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coterie.config import Config
from coterie.errors import ConfigError

ItemId = Annotated[int, Field(strict=True)] | Annotated[str, Field(min_length=1, max_length=512)]


class ServeConfig(Config):
    """Address, store, batching and limits of a server."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    database: str = Field(
        "sqlite:///coterie.db",
        description="The store: sqlite:///FILE or postgresql://USER@HOST/NAME.",
    )
    batch_size: PositiveInt = Field(64, description="Requests scored at once, at most.")
    queue_size: PositiveInt = Field(
        512, description="Requests that may wait for the model; more are refused with 503."
    )
    timeout_seconds: PositiveFloat = Field(
        5.0, description="After so long without an answer a request is given up with 503."
    )
    explain_seconds: PositiveFloat = Field(
        0.5, description="What one explanation may take, as `coterie explain` reckons."
    )
    analyze_seconds: PositiveFloat = Field(
        30.0, description="What the analysis of one experiment may take; then 503."
    )
    keep_seconds: float = Field(
        10.0, ge=0, description="How long an analysis is answered again before a new one is made."
    )
    most_log: PositiveInt = Field(
        10_000_000, description="Longest log, in events, that an experiment is analysed from."
    )
    most_items: PositiveInt = Field(1000, description="Longest list (k) that may be asked for.")
    most_history: PositiveInt = Field(
        1000, description="Items of a stored history that count, the latest first."
    )
    most_requests: PositiveInt = Field(
        256, description="Requests of one batch, and events of one batch, at most."
    )
    most_bytes: int = Field(
        1 << 20, ge=1024, description="Largest request body; more is refused with 413."
    )
    watch_seconds: float = Field(
        2.0, ge=0, description="How often models are checked for a new version; 0: on SIGHUP only."
    )
    stop_seconds: PositiveFloat = Field(
        30.0, description="How long a stopping server finishes what it has accepted."
    )
    access_log: bool = Field(True, description="Log each request.")

    @property
    def statement_seconds(self) -> float:
        """What the store may take; less than a request, whose refusal then tells the cause."""
        return 0.8 * self.timeout_seconds

    @model_validator(mode="after")
    def _room_for_a_batch(self) -> "ServeConfig":
        if self.queue_size < max(self.batch_size, self.most_requests):
            raise ConfigError(
                f"queue_size={self.queue_size} must be at least batch_size and most_requests, "
                f"{self.batch_size} and {self.most_requests}; else a full batch never fits."
            )
        return self


class ItemFilter(Config):
    """Items that lists may, or must not, hold; requests name it."""

    allow: tuple[ItemId, ...] | None = Field(None, description="Recommend only these.")
    deny: tuple[ItemId, ...] = Field((), description="Never recommend these.")

    @model_validator(mode="before")
    @classmethod
    def _something(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values:
            raise ConfigError("a filter needs allow or deny.")
        return values
