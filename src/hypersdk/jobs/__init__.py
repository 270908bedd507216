"""Durable jobs: what was submitted survives every crash, and the row in ``jobs`` is the one truth that users see.

::

    submit ─> row (queued) ─> engine: attempt ID/1 ─> worker: claim (epoch + 1) ─> steps ─> completed | failed | ...
                                   ▲                        │ heartbeat                         │
                                   └── take-over by another ┘ worker, drain, retry, resume ─────┘  attempt ID/2 ...
"""
