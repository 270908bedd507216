"""Since when a process is at a request with an Idempotency-Key; that had no column of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Who was at a request has died by now, so all without an answer may be asked again: the new column begins
    empty."""
    op.add_column("idempotency", sa.Column("taken_at", sa.Double(), nullable=True))
    op.drop_column("idempotency", "content_type")
