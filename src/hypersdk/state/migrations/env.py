"""Run by Alembic, which hands over the connection; never from the command line."""

from __future__ import annotations

from alembic import context

from hypersdk.state.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
