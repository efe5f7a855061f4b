"""Events and histories."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("item", sa.Text),
        sa.Column("surface", sa.Text),
        sa.Column("seconds", sa.Float),
        sa.Column("experiment", sa.Text),
        sa.Column("arm", sa.Text),
    )
    op.create_index("events_by_time", "events", ["time"])
    op.create_table(
        "histories",
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("item", sa.Text, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
