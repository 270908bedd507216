"""Key rotation: every sealed secret is opened with the old key and sealed with the new one, in one transaction."""

from __future__ import annotations

import sqlalchemy as sa

from hypersdk.access.vault import KEY_ROW, Vault, forget_answers
from hypersdk.jobs.secrets import JOB_PASSWORD
from hypersdk.state.database import Database
from hypersdk.state.tables import endpoints, jobs, meta


def reseal(database: Database, old: Vault, new: Vault) -> int:
    """Seals every secret with the new key and returns how many there are. Stored answers to repeated requests, which
    are sealed too and live for a day only, are deleted.

    Raises VaultError, and changes nothing, if one does not open.
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
