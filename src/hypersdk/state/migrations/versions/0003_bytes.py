"""A counter of the bytes that all jobs have downloaded, ever. It begins with this revision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The counter's row, in old databases and in new ones."""
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    op.execute(sa.insert(counters).values(name="bytes", value=0))
