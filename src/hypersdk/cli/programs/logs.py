"""How the daemon and its processes log: lines for people, lines that the journal understands, or JSON for programs.

::

    auto     at a terminal or into a file: text; under systemd: text behind the priority that sd-daemon(3) defines,
             without the time, which the journal has
    text     time, level, logger, message
    json     one object a line: timestamp, level, logger, event, and the traceback where there is one
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from hypersdk.text import clean, clean_lines
from hypersdk.units import KiB

PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
QUIET: Final = ("uvicorn.access", "uvicorn.error", "httpx", "httpcore", "alembic", "dbos", "sqlalchemy.engine")
"""Loggers of libraries: their warnings are ours to know, their chatter is not."""
_TOKEN: Final = re.compile(r"hst_[A-Za-z0-9_-]{8,}")
MAX_MESSAGE: Final = 64 * KiB
"""Characters of one message that are written down."""


def start_logging(form: str, stream: TextIO, environ: Mapping[str, str]) -> None:
    """All loggers of this process write to ``stream`` from here on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(form, stream, environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(form: str, stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    if form == "json":
        return JsonLines()
    return JournalLines() if form == "auto" and to_journal(stream, environ) else TextLines()


def to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the journal's: ``$JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def redacted(text: str) -> str:
    """The last line of defence: what looks like a token of ours is not written down."""
    return _TOKEN.sub("hst_***", text)


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.250Z INFO    jobs.worker: message``; a message is one line, whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_moment(record)} {record.levelname:<7} {_logger(record)}: "
        return redacted(head + clean(record.getMessage(), MAX_MESSAGE) + _trace(self, record))


class JournalLines(logging.Formatter):
    """The same without the time, behind ``<6>``; each line of a traceback has the priority too."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in PRIORITIES if record.levelno >= level)
        text = f"{_logger(record)}: {clean(record.getMessage(), MAX_MESSAGE)}{_trace(self, record)}"
        return "\n".join(f"<{priority}>{line}" for line in redacted(text).split("\n"))


class JsonLines(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "timestamp": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return redacted(json.dumps(facts))


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _logger(record: logging.LogRecord) -> str:
    return record.name.removeprefix("hypersdk.")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + clean_lines(formatter.formatException(record.exc_info)) if record.exc_info else ""
