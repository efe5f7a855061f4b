"""What users did and have: events and histories in SQLite or PostgreSQL.

An event and what it adds to the user's history are one transaction, and whoever sent it hears of
it after the commit. SQLite flushes each commit to disk (WAL, ``synchronous = FULL``), PostgreSQL
does so by default: what was acknowledged survives a killed process and a power failure.
"""

import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, MissingExtraError, StorageError
from coterie.experiment.events import SCHEMA, Event
from coterie.serving.migrate import migrate
from coterie.serving.tables import events, histories

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TASTE = ("click", "watch")
"""Kinds of events whose items are the user's history; what was merely shown is not."""
BYTES_PER_ID = 512  # two of them and some must fit PostgreSQL's 2704 bytes per index entry
ROWS_AT_ONCE = 50_000
CONNECT_SECONDS = 5
GONE = frozenset({"25006", "25P03", "57P01", "57P02", "57P03"})
"""SQLSTATEs of a server that is ending, or not (any more) the one that takes writes."""


class StoreUnavailable(Exception):
    """The database does not answer; it may later."""


class Store:
    """Events and histories of users in a database, which is migrated when it is opened.

    May be used from several threads.

    Parameters
    ----------
    url
        ``sqlite:///FILE`` or ``postgresql://USER@HOST:PORT/NAME``; what libpq understands may
        follow a question mark, and goes before what is set here.
    seconds
        After which a statement is given up, whoever holds it up; None: PostgreSQL never does.

    Raises
    ------
    ConfigError
        The URL is of another kind.
    StorageError
        The database cannot be reached, or a newer version of coterie has migrated it.
    MissingExtraError
        The driver for PostgreSQL is not installed.
    """

    def __init__(self, url: str, *, seconds: float | None = None) -> None:
        self.url = _url(url)
        self._reading, self._writing = _engines(self.url, seconds)
        try:
            migrate(self._writing)
        except (SQLAlchemyError, OSError) as error:
            self.close()
            raise StorageError(f"The store {self} cannot be opened: {_why(error)}.") from error
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @property
    def address(self) -> str:
        """The URL with the password, for another :class:`Store` of this database."""
        return self.url.render_as_string(hide_password=False)

    def close(self) -> None:
        """Give all connections back."""
        self._reading.dispose()

    def add(self, new: Sequence[Event]) -> list[bool]:
        """Store events in one transaction; returning means that they are on disk.

        Parameters
        ----------
        new
            Events for which :func:`storable` holds.

        Returns
        -------
        list of bool
            Whether each was new; one whose ``event_id`` is there already changes nothing.

        Raises
        ------
        StoreUnavailable
            The database does not answer. Nothing was acknowledged; sending again is safe.
        """
        first = {event.event_id: event for event in reversed(new)}
        rows = [_row(first[event_id]) for event_id in sorted(first)]  # one order: no deadlocks
        if not rows:
            return []
        with _answering(), self._writing.begin() as connection:
            insert = _insert(connection, events)
            stored = insert.on_conflict_do_nothing().returning(events.c.event_id)
            fresh = set(connection.execute(stored, rows).scalars())
            self._add_histories(connection, [row for row in rows if row["event_id"] in fresh])
        return [event.event_id in fresh and first[event.event_id] is event for event in new]

    def histories(self, users: Sequence[str], most: int) -> list[list[str]]:
        """The items of each user, the latest first, at most ``most``; empty for unknown users.

        Raises
        ------
        StoreUnavailable
            The database does not answer.
        """
        latest = sa.func.row_number().over(
            partition_by=histories.c.user, order_by=[histories.c.time.desc(), histories.c.item]
        )
        ranked = (
            sa.select(histories.c.user, histories.c.item, latest.label("place"))
            .where(histories.c.user.in_(sorted(set(users))))
            .subquery()
        )
        query = (
            sa.select(ranked.c.user, ranked.c.item)
            .where(ranked.c.place <= most)
            .order_by(ranked.c.user, ranked.c.place)
        )
        found: dict[str, list[str]] = {user: [] for user in users}
        with _answering(), self._reading.connect() as connection:
            for user, item in connection.execute(query):
                found[user].append(item)
        return [found[user] for user in users]

    def import_histories(self, data: Interactions) -> int:
        """Add the items of a data set's users to their histories; doing it again changes nothing.

        Items without a timestamp are older than all events.

        Returns
        -------
        int
            How many interactions were read.

        Raises
        ------
        DataError
            An id cannot be stored.
        StoreUnavailable
            The database does not answer; what was committed so far stays.
        """
        users = data.user_of_each()
        for start in range(0, data.nnz, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            columns = (
                data.user_ids.to_ids(users[part]).cast(pl.String).to_list(),
                data.item_ids.to_ids(data.indices[part]).cast(pl.String).to_list(),
                [0] * len(users[part])
                if data.timestamps is None
                else [1_000_000 * int(second) for second in data.timestamps[part]],
            )
            rows = [
                {"user": user, "item": item, "time": time, "kind": TASTE[0]}
                for user, item, time in zip(*columns, strict=True)
            ]
            for text in {*columns[0], *columns[1]}:
                _refuse_unstorable("id", text)
            with _answering(), self._writing.begin() as connection:
                self._add_histories(connection, rows)
        return data.nnz

    def log(
        self, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[pl.DataFrame]:
        """All events from ``since`` to ``until`` (exclusive), oldest first, a part at a time.

        The columns are those of :data:`coterie.experiment.events.SCHEMA`, so that
        :func:`coterie.experiment.log.summarize` takes the parts together; there is at least one.

        Raises
        ------
        StoreUnavailable
            The database does not answer.
        """
        query = sa.select(*(events.c[name] for name in SCHEMA)).order_by(events.c.time)
        if since is not None:
            query = query.where(events.c.time >= _microseconds(since))
        if until is not None:
            query = query.where(events.c.time < _microseconds(until))
        with _answering(), self._reading.connect() as connection:
            rows = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
            yield _frame([])
            for part in rows.partitions():
                yield _frame(part)

    def _add_histories(self, connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        latest: dict[tuple[str, str], int] = {}
        for row in rows:
            if row["kind"] in TASTE and row["item"] is not None:
                key = (row["user"], row["item"])
                latest[key] = max(row["time"], latest.get(key, row["time"]))
        if not latest:
            return
        insert = _insert(connection, histories)
        later = insert.on_conflict_do_update(
            index_elements=[histories.c.user, histories.c.item],
            set_={"time": insert.excluded.time},
            where=histories.c.time < insert.excluded.time,
        )
        connection.execute(
            later,
            [
                {"user": user, "item": item, "time": latest[user, item]}
                for user, item in sorted(latest)
            ],
        )


def storable(event: Event) -> Event:
    """The event itself, if the databases can hold its ids.

    Raises
    ------
    DataError
        An id holds a NUL or is too long; the message names the field.
    """
    for field in ("event_id", "user", "item"):
        text = getattr(event, field)
        if text is not None:
            _refuse_unstorable(field, text)
    return event


def _refuse_unstorable(field: str, text: str) -> None:
    try:
        if "\0" not in text and len(text.encode()) <= BYTES_PER_ID:
            return
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    raise DataError(
        f"{field}: an id has at most {BYTES_PER_ID} bytes of UTF-8 and no NUL, got {text!r}."
    )


def _url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"database: {text!r} is no URL such as sqlite:///coterie.db.") from error
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(
        "database: expected sqlite:///FILE or postgresql://USER@HOST/NAME, got "
        f"{url.render_as_string(hide_password=True)!r}."
    )


def _engines(url: sa.URL, seconds: float | None) -> tuple[sa.Engine, sa.Engine]:
    """For reading and for writing, over one pool of connections."""
    if url.get_backend_name() == "postgresql":
        try:
            engine = sa.create_engine(
                url, pool_pre_ping=True, hide_parameters=True, connect_args=_limits(url, seconds)
            )
        except ImportError as error:
            raise MissingExtraError(
                "PostgreSQL needs psycopg, which is not installed: pip install 'coterie[serve]'"
            ) from error
        sa.event.listen(engine, "handle_error", _notice_that_it_is_gone)
        return engine, engine
    busy = CONNECT_SECONDS if seconds is None else seconds
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": busy})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, engine.execution_options(begin="IMMEDIATE")


def _limits(url: sa.URL, seconds: float | None) -> dict[str, Any]:
    """What libpq is told, so that a server that says nothing is noticed; the URL's own goes before.

    Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    """
    limits: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": 1000 * CONNECT_SECONDS,  # ms that what was sent may go unconfirmed
        "keepalives_idle": CONNECT_SECONDS,
        "keepalives_interval": 1,
        "keepalives_count": CONNECT_SECONDS,
    }
    limits = {name: limit for name, limit in limits.items() if name not in url.query}
    if seconds is not None:
        given = url.query.get("options", "")
        given = given if isinstance(given, str) else " ".join(given)
        limits["options"] = f"-c statement_timeout={math.ceil(1000 * seconds)} {given}".strip()
    return limits


def _notice_that_it_is_gone(context: sa.engine.ExceptionContext) -> None:
    """New connections are made then, in place of all those of the pool."""
    if getattr(context.original_exception, "sqlstate", None) in GONE:
        context.is_disconnect = True


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for DDL
    give_up = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:  # locked: for this alone SQLite does not wait by itself
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    kind = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Each database has an INSERT of its own that says what happens to duplicates."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, sa.exc.TimeoutError) as error:
        raise StoreUnavailable(_why(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise StoreUnavailable(_why(error)) from error
        raise


def _why(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _row(event: Event) -> dict[str, Any]:
    return {**event.model_dump(), "time": _microseconds(event.time)}


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def _frame(rows: Sequence[Any]) -> pl.DataFrame:
    types = {**SCHEMA, "time": pl.Int64()}
    frame = pl.DataFrame([tuple(row) for row in rows], schema=types, orient="row")
    return frame.with_columns(pl.from_epoch("time", time_unit="us").dt.replace_time_zone("UTC"))
