"""The store's tables, as the newest migration leaves them."""

from sqlalchemy import BigInteger, Column, Float, Index, MetaData, Table, Text

metadata = MetaData()

events = Table(
    "events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", BigInteger, nullable=False),  # microseconds since 1970, UTC
    Column("item", Text),
    Column("surface", Text),
    Column("seconds", Float),
    Column("experiment", Text),
    Column("arm", Text),
    Index("events_by_time", "time"),
)
histories = Table(
    "histories",
    metadata,
    Column("user", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),  # of the last event with the item
)
