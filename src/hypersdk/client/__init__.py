"""Typed, synchronous client for the daemon's REST API: ``from hypersdk import Client``.

::

    api.py ──> Client: a method for each call       records.py    results
      │                                             watching.py   wait and watch: event stream, else polling
      ├── resources.py ── endpoints, tokens, users
      ├── transport.py ── one request: timeouts, retries, Idempotency-Key, size limit of responses
      ├── address.py ──── address and token of the daemon (contexts.py: the file of named daemons)
      ├── stream.py ───── decoder of server-sent events
      └── errors.py ───── error responses as exceptions
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
