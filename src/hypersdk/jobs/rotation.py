"""Another key for the sealed secrets: everything is opened with the old one and sealed with the new one, in one
transaction."""

from __future__ import annotations

import sqlalchemy as sa

from hypersdk.access.vault import Vault, forget_answers
from hypersdk.jobs.login import JOB_PASSWORD
from hypersdk.state.database import Database
from hypersdk.state.tables import endpoints, jobs, meta

KEY_ROW = "vault_key"


def reseal(database: Database, old: Vault, new: Vault) -> int:
    """How many secrets were sealed anew. Remembered answers of writes are forgotten: they are sealed too, and live for
    a day only.

    Raises VaultError, and changes nothing, where one does not open.
    """
    count = 0
    with database.write() as connection:
        for row in connection.execute(
            sa.select(endpoints.c.id, endpoints.c.secret).where(endpoints.c.secret.is_not(None))
        ).all():
            sealed = new.seal(old.open(row.secret, purpose := f"endpoint:{row.id}"), purpose)
            connection.execute(sa.update(endpoints).where(endpoints.c.id == row.id).values(secret=sealed))
            count += 1
        for row in connection.execute(sa.select(jobs.c.id, jobs.c.secret).where(jobs.c.secret.is_not(None))).all():
            sealed = new.seal(old.open(row.secret, JOB_PASSWORD), JOB_PASSWORD)
            connection.execute(sa.update(jobs).where(jobs.c.id == row.id).values(secret=sealed))
            count += 1
        forget_answers(connection)
        connection.execute(sa.update(meta).where(meta.c.name == KEY_ROW).values(value=new.key_id.hex()))
    return count


def known_key(database: Database) -> str | None:
    """Id, in hex, of the key that the database's secrets are sealed with; None before the first start."""
    with database.read() as connection:
        return connection.execute(sa.select(meta.c.value).where(meta.c.name == KEY_ROW)).scalar_one_or_none()
