"""What jobs that land machines use and leave at their target."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs of before landed nothing."""
    op.add_column("jobs", sa.Column("target_endpoint_id", sa.String(length=128), nullable=True))
    op.add_column("jobs", sa.Column("target_changes", sa.Integer(), nullable=False, server_default="0"))
