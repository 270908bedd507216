"""Jobs are of kinds, have steps and locks. All jobs of before are exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_JSON: Final = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_STEPS: Final = ("copy", "publish")
_STATES: Final = {"completed": "done", "cancelled": "skipped"}
"""State of the steps of a job that has ended; those of any other have not begun, since their insides go on by the
job's own record."""
_AT_ONCE: Final = 1000


def upgrade() -> None:
    """The columns of an export get the names that all kinds share."""
    op.add_column("jobs", sa.Column("kind", sa.String(length=32), nullable=False, server_default="export"))
    op.execute("ALTER TABLE jobs RENAME COLUMN vm_path TO subject")
    op.execute("ALTER TABLE jobs RENAME COLUMN output_path TO target")
    op.drop_column("jobs", "format")
    key = sa.String(length=128)
    locks = op.create_table(
        "locks",
        sa.Column("job_id", key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text(), primary_key=True),
    )
    op.create_index(op.f("ix_locks_name"), "locks", ["name"])
    steps = op.create_table(
        "steps",
        sa.Column("job_id", key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("result", _JSON, nullable=True),
        sa.Column("error", _JSON, nullable=True),
    )
    jobs = sa.table(
        "jobs", *(sa.column(name) for name in ("id", "number", "root_id", "site", "subject", "target", "state"))
    )
    connection = op.get_bind()
    last = 0
    while (
        rows := connection.execute(sa.select(jobs).where(jobs.c.number > last).order_by(jobs.c.number).limit(_AT_ONCE))
        .mappings()
        .all()
    ):
        last = rows[-1]["number"]
        connection.execute(sa.insert(locks), [lock for row in rows for lock in _locks(row)])
        connection.execute(sa.insert(steps), [step for row in rows for step in _steps(row)])


def _locks(row: sa.RowMapping) -> Iterator[dict[str, str]]:
    yield {"job_id": row["id"], "name": f"folder:{row['root_id']}/{PurePosixPath(row['target'])}"}
    yield {"job_id": row["id"], "name": f"machine:{row['site']}/{row['subject']}"}


def _steps(row: sa.RowMapping) -> Iterator[dict[str, Any]]:
    state = _STATES.get(row["state"], "waiting")
    for position, name in enumerate(_STEPS):
        yield {"job_id": row["id"], "position": position, "name": name, "state": state}
