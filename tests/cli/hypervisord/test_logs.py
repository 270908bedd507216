"""Log lines: for people, for the journal, for programs; one record is one line, and no token is written down."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.cli.programs.logs import start_logging, to_journal
from hypersdk.text import is_plain

TOKEN = "hst_" + "x" * 43


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(form: str, environ: dict[str, str] | None = None, stream: io.TextIOBase | None = None) -> list[str]:
    out = io.StringIO()
    start_logging(form, out if stream is None else stream, environ or {})  # type: ignore[arg-type]
    log = logging.getLogger("hypersdk.jobs.worker")
    log.info("took %s\nINFO forged: line", TOKEN)
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("it failed")
    log.debug("not shown")
    logging.getLogger("uvicorn.access").info("not shown either")
    return out.getvalue().splitlines()


def test_text() -> None:
    lines = written("text")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    jobs\.worker: took hst_\*\*\*\\nINFO forged: line", lines[0]
    )
    assert lines[1].endswith("jobs.worker: it failed")
    assert lines[-1] == "ValueError: inner"


def test_json() -> None:
    first, second = map(json.loads, written("json"))
    assert (first["level"], first["logger"], first["event"]) == (
        "info",
        "hypersdk.jobs.worker",
        "took hst_***\nINFO forged: line",
    )
    assert "ValueError: inner" in second["exception"]


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert to_journal(stream, environ)
        written("auto", environ, stream)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("<6>jobs.worker: took hst_***")
    assert {line[:3] for line in lines[1:]} == {"<3>"}
    assert not to_journal(io.StringIO(), environ)


@pytest.mark.parametrize("form", ["text", "json", "journal"])
def test_every_code_point_stays_in_its_line(form: str, tmp_path: Path) -> None:
    everything = "".join(map(chr, range(0x110000)))
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"} if form == "journal" else {}
        start_logging("auto" if form == "journal" else form, stream, environ)
        log = logging.getLogger("hypersdk.jobs.worker")
        for start in range(0, 0x110000, 0x1000):
            log.info("%s", everything[start : start + 0x1000])
        try:
            raise ValueError("a\x1b[31m\u2028\u202e\ud800")
        except ValueError:
            log.exception("it failed")
    text = path.read_text(encoding="utf-8")
    assert all(is_plain(char) for char in text if char != "\n")
    lines = text.splitlines()
    if form == "json":
        assert "".join(json.loads(line)["event"] for line in lines[:-1]).encode(
            "utf-16", "surrogatepass"
        ) == everything.encode("utf-16", "surrogatepass")
    else:
        assert sum("jobs.worker: " in line for line in lines) == 0x110 + 1
        assert "\\x1b[31m\\u2028\\u202e\\ud800" in lines[-1]
