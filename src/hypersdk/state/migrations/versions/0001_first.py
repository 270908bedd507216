"""The first schema."""

from __future__ import annotations

from alembic import op

from hypersdk.state.tables import METADATA

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """All tables as they were first released."""
    METADATA.create_all(op.get_bind())
