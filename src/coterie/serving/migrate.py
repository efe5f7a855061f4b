"""Bring a database's tables to the version that this code knows."""

from pathlib import Path

import sqlalchemy as sa

from coterie.errors import StorageError
from coterie.serving.tables import metadata

FOLDER = Path(__file__).parent / "migrations"
NEWEST = "0001"
VERSION = sa.Table(  # as Alembic has it
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
LOCK = 0x636F74657269  # any number that is always the same


def migrate(engine: sa.Engine) -> None:
    """Create the tables, or apply the migrations that lack; servers that start together wait.

    All in one transaction. Alembic, whose import takes a tenth of a server's start, is imported
    only where a table is there and not of the newest version.

    Raises
    ------
    StorageError
        A newer version of coterie has migrated the database.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))  # as long as it takes
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        there = set(sa.inspect(connection).get_table_names())
        if there.isdisjoint({VERSION.name, *metadata.tables}):
            metadata.create_all(connection, checkfirst=False)  # a view of that name is an error
            VERSION.create(connection, checkfirst=False)
            connection.execute(sa.insert(VERSION).values(version_num=NEWEST))
        elif VERSION.name not in there or connection.scalar(sa.select(VERSION)) != NEWEST:
            _upgrade(connection)


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(
            f"The store is of a version that this coterie does not know ({error}); a newer "
            "coterie has migrated it. Use that one, or another store."
        ) from error
