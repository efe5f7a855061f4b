"""A transaction that nobody ends has the tables of a store."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


@contextmanager
def held_up(database: str) -> Iterator[None]:
    """Nobody else writes meanwhile; in PostgreSQL nobody reads either."""
    engine = sa.create_engine(
        database.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE events, histories")
        yield
