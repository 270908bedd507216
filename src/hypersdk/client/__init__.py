"""Typed, synchronous client for the daemon's REST API: ``from hypersdk import Client``.

::

    api.py ──> Client: one method a call            records.py    what comes back
      │                                             watching.py   wait and watch: event stream, else polling
      ├── transport.py ── one request: time limit, retries, Idempotency-Key, answers of bounded size
      ├── address.py ──── which daemon and which token (contexts.py: the file of named daemons)
      ├── stream.py ───── server-sent events, decoded
      └── errors.py ───── an answer that says no, as one of our errors
"""

from hypersdk.access.records import ApiToken, EndpointInfo, User
from hypersdk.client.api import Client
from hypersdk.client.errors import DaemonError, DaemonUnavailable
from hypersdk.client.records import (
    DaemonStatus,
    Explanation,
    HeldSnapshot,
    Job,
    LogPart,
    Me,
    NewToken,
    Progress,
    Rejection,
    Submission,
)

__all__ = [
    "ApiToken",
    "Client",
    "DaemonError",
    "DaemonStatus",
    "DaemonUnavailable",
    "EndpointInfo",
    "Explanation",
    "HeldSnapshot",
    "Job",
    "LogPart",
    "Me",
    "NewToken",
    "Progress",
    "Rejection",
    "Submission",
    "User",
]
