"""Bring a database's tables to the version that this code knows."""

from pathlib import Path

import sqlalchemy as sa

from coterie.errors import StorageError

FOLDER = Path(__file__).parent / "migrations"
NEWEST = "0001"
LOCK = 0x636F74657269  # any number that is always the same


def migrate(engine: sa.Engine) -> None:
    """Apply the migrations that lack, in one transaction; servers that start together wait.

    Raises
    ------
    StorageError
        A newer version of coterie has migrated the database.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))  # as long as it takes
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        if _version(connection) != NEWEST:  # else there is no need to import Alembic
            _upgrade(connection)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


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
