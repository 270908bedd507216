"""How many changes at the source each job has not undone, so that it can be asked for."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The column, filled from the journals of the runs that there are."""
    op.add_column("jobs", sa.Column("source_changes", sa.Integer(), nullable=False, server_default="0"))
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id"), sa.column("source_changes"))
    runs = sa.table("runs", sa.column("job_id"), sa.column("record"))
    for job_id, record in connection.execute(sa.select(runs.c.job_id, runs.c.record)).all():
        still = sum(not change["undone"] for change in json.loads(record)["changes"])
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(source_changes=still))
