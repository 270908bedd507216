"""The outbox takes the place of ``removed``; what a user asks of a job is said by its state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was removed before stays known to clients that were away."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    outbox = op.create_table(
        "outbox",
        sa.Column("revision", big, primary_key=True, autoincrement=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("data", json, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
    )
    removed = sa.table("removed", *(sa.column(name) for name in ("revision", "topic", "id", "at")))
    event, data = sa.literal("removed", sa.String()), sa.literal({}, json)
    was = sa.select(removed.c.revision, removed.c.topic, removed.c.id, event, data, removed.c.at)
    op.execute(sa.insert(outbox).from_select(["revision", "topic", "id", "event", "data", "at"], was))
    op.drop_table("removed")
    op.drop_column("jobs", "request")
