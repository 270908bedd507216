"""The tables of the daemon's database, and the units of their columns.

::

    jobs ──< attempts            what a user submitted; each attempt of a worker
      ├──< steps               the named parts of its work, in order, with their states
      ├──< locks               what it needs for itself while a worker has it
      ├── runs                   journal and receipts of an unfinished export
      └──< job_log               its log, by byte offset
    workers                      heartbeats, on the database's clock
    nfc_hosts ──< nfc_streams    streams that each ESXi host allows, and those in use
    endpoints                    vCenters, ESXi hosts, hypervisors; passwords sealed
    users ──< logins, api_tokens authentication
    outbox                       events of jobs and endpoints
    audit, idempotency, counters, meta
    samples                      one row a minute: transfer rate and job counts, for the history

Times are seconds since 1970 as floats, UTC. ``revision`` of a row is the value of the counter ``revision`` at its
last change, so that changes since N are one indexed read. The engine's own tables (DBOS) are elsewhere.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

METADATA: Final = sa.MetaData()
Json: Final = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Time: Final[sa.Double[float]] = sa.Double()
Key: Final = sa.String(128)
Big: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

jobs = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", Key, primary_key=True),
    sa.Column("number", Big, nullable=False, unique=True),  # rises with each submit: the order of lists
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),  # what is to be done: see hypersdk.jobs.kinds
    sa.Column("subject", sa.Text, nullable=False),  # what it is done to: of an export the machine's path
    sa.Column("target", sa.Text, nullable=False),  # where the result goes: of an export the folder
    sa.Column("definition", Json, nullable=False),  # as it was given, without any secret
    sa.Column("digest", sa.String(64), nullable=False),  # of the definition: the same id with another one is refused
    sa.Column("endpoint_id", Key, nullable=True),
    sa.Column("target_endpoint_id", Key, nullable=True),  # where it lands its machine
    sa.Column("secret", sa.LargeBinary, nullable=True),  # sealed: the password that came in the job file
    sa.Column("site", sa.Text, nullable=False),  # host:port of the vCenter; limits are per site
    sa.Column("root_id", Key, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("owner", Key, nullable=True),  # user who submitted it
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("keep_partial", sa.Boolean, nullable=False),
    sa.Column("discard", sa.Boolean, nullable=False),  # the next attempt starts from the beginning
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("enqueued", sa.Integer, nullable=False),  # the last attempt that the engine knows of
    sa.Column("epoch", Big, nullable=False),  # rises each time a worker takes it up: the fence
    sa.Column("worker_id", Key, nullable=True),
    sa.Column("waiting", sa.String(64), nullable=True),  # code of what a queued job waits for
    sa.Column("progress", Json, nullable=False),
    sa.Column("result", Json, nullable=True),
    sa.Column("error", Json, nullable=True),
    # Changes at the source that are not undone, by the run's journal; above 0 in a finished job, a user has to act.
    sa.Column("source_changes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("target_changes", sa.Integer, nullable=False, server_default="0"),  # the same at the target
    sa.Column("created_at", Time, nullable=False),
    # A bulk call touches nothing that came after what its caller saw.
    sa.Column("created_revision", Big, nullable=False),
    sa.Column("started_at", Time, nullable=True),
    sa.Column("completed_at", Time, nullable=True),
    sa.Column("updated_at", Time, nullable=False),
    sa.Column("revision", Big, nullable=False, index=True),
    sa.Index("jobs_by_state", "state", "number"),
)
locks = sa.Table(
    "locks",
    METADATA,
    sa.Column("job_id", Key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True, index=True),  # see hypersdk.jobs.locks
)
steps = sa.Table(
    "steps",
    METADATA,
    sa.Column("job_id", Key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),  # from 0, in the order in which they run
    sa.Column("name", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=True),  # the one that ran it last
    sa.Column("started_at", Time, nullable=True),
    sa.Column("ended_at", Time, nullable=True),
    sa.Column("result", Json, nullable=True),  # for later steps
    sa.Column("error", Json, nullable=True),
)
attempts = sa.Table(
    "attempts",
    METADATA,
    sa.Column("job_id", Key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("epoch", Big, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker_id", Key, nullable=False),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("ended_at", Time, nullable=True),
    sa.Column("outcome", sa.String(16), nullable=True),
    sa.Column("error", Json, nullable=True),
)
runs = sa.Table(
    "runs",
    METADATA,
    sa.Column("job_id", Key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
)
job_log = sa.Table(
    "job_log",
    METADATA,
    sa.Column("job_id", Key, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("start", Big, primary_key=True),  # byte offset of the first byte of ``data``
    sa.Column("data", sa.LargeBinary, nullable=False),
)
workers = sa.Table(
    "workers",
    METADATA,
    sa.Column("id", Key, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("roots", Json, nullable=False),  # ids of the export roots that it sees
    sa.Column("state", sa.String(16), nullable=False),  # alive, draining, dead
    sa.Column("epoch", Big, nullable=False),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("beat", Time, nullable=False),
)
nfc_hosts = sa.Table(
    "nfc_hosts",
    METADATA,
    sa.Column("site", sa.String(300), primary_key=True),
    sa.Column("host", sa.String(300), primary_key=True),
    sa.Column("allowed", sa.Integer, nullable=False),
    sa.Column("quiet_since", Time, nullable=False),
    sa.Column("refused_at", Time, nullable=False),
)
nfc_streams = sa.Table(
    "nfc_streams",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("site", sa.String(300), nullable=False),
    sa.Column("host", sa.String(300), nullable=False),
    sa.Column("worker_id", Key, nullable=False),
    sa.Column("expires", Time, nullable=False),
    sa.Index("nfc_streams_by_host", "site", "host"),
)
endpoints = sa.Table(
    "endpoints",
    METADATA,
    sa.Column("id", Key, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=True),  # sealed password
    sa.Column("secret_ref", sa.Text, nullable=True),  # or where it is: vault:, env:, file:, credential:
    sa.Column("thumbprint", sa.String(128), nullable=True),
    sa.Column("insecure", sa.Boolean, nullable=False),
    sa.Column("datacenter", sa.Text, nullable=True),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("revision", Big, nullable=False, index=True),
)
users = sa.Table(
    "users",
    METADATA,
    sa.Column("id", Key, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=True),  # argon2id; None: tokens only
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("locked_until", Time, nullable=True),
    sa.Column("created_at", Time, nullable=False),
)
api_tokens = sa.Table(
    "api_tokens",
    METADATA,
    sa.Column("id", Key, primary_key=True),
    sa.Column("user_id", Key, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the token, which has 256 random bits
    sa.Column("scope", sa.String(16), nullable=False),  # a role, or metrics
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=True),
    sa.Column("used_at", Time, nullable=True),
)
logins = sa.Table(
    "logins",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("user_id", Key, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("used_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
)
audit = sa.Table(
    "audit",
    METADATA,
    sa.Column("number", Big, primary_key=True, autoincrement=True),
    sa.Column("at", Time, nullable=False, index=True),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("detail", Json, nullable=False),
)
idempotency = sa.Table(
    "idempotency",
    METADATA,
    sa.Column(
        "key", sa.String(300), primary_key=True
    ),  # of one caller: its id, role and scope, and the key that it sent
    sa.Column("request", sa.String(64), nullable=False),  # digest of method, path and body
    sa.Column("status", sa.Integer, nullable=True),  # None while the first is being answered
    sa.Column("answer", sa.LargeBinary, nullable=True),
    # When a process began to answer; None if the request may be repeated.
    sa.Column("taken_at", Time, nullable=True),
    sa.Column("at", Time, nullable=False, index=True),  # when the key was first seen: ids of jobs come from both
)
outbox = sa.Table(
    "outbox",
    METADATA,
    sa.Column("revision", Big, primary_key=True, autoincrement=False),
    sa.Column("topic", sa.String(32), nullable=False),
    sa.Column("id", Key, nullable=False),
    sa.Column("event", sa.String(32), nullable=False),  # start, finish, removed ...
    sa.Column("data", Json, nullable=False),
    sa.Column("at", Time, nullable=False),
)
samples = sa.Table(
    "samples",
    METADATA,
    sa.Column("minute", Big, primary_key=True),  # whole minutes since 1970: whichever API process comes first writes it
    sa.Column("rate_bytes_s", sa.Double, nullable=False),  # of all running jobs together
    sa.Column("submitted", Big, nullable=False),  # jobs ever
    sa.Column("queued", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("paused", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Integer, nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("streams", sa.Integer, nullable=False),
)
counters = sa.Table(
    "counters",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", Big, nullable=False),
)
meta = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
