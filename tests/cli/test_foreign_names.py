"""Names that forge lines, reorder what is shown or hide a part: through every table, plan, log, file name and JSON of
`hyper2kvm`."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import pytest

from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.text import is_plain
from tests.support.cli.shell import Shell, small
from tests.support.simulator import SimulatorFactory

SAMPLES = (
    "\n\t\x85\x9b\x9d\xad\u034f\u0378\u061c\u115f\u180e\u200b\u200d\u200e\u202e\u2028\u2029"
    "\u2060\u2066\u2069\u3164\ue000\ufe0f\ufeff\ufff9"
    "\U000e0041\U000e0100"
)
"""One of each category that XML can carry, and those that were seen to forge or hide."""
EVIL = f"db{SAMPLES}\u202e10-vm"
OTHER = "db\u2028✔ all proved"


def name_of(char: str) -> str:
    return f"vm-{ord(char):05x}{char}-x"


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path) -> Shell:
    machines = (
        small(EVIL, snapshots=(f"before {SAMPLES}",), annotation=f"note {SAMPLES}"),
        small(OTHER),
        *(small(name_of(char)) for char in SAMPLES),
    )
    return Shell(simulator(machines=machines), tmp_path)


def assert_plain(*texts: str) -> None:
    for text in texts:
        bad = {f"U+{ord(char):04X}" for char in text if char != "\n" and not is_plain(char)}
        assert not bad, text
        assert not {unicodedata.category(char) for char in text if char != "\n"} & {
            "Cc",
            "Cf",
            "Cs",
            "Co",
            "Cn",
            "Zl",
            "Zp",
        }


def test_tables_show_each_name_in_one_line(shell: Shell) -> None:
    told = shell.good("list")
    assert_plain(told.out, told.err)
    assert len(told.out.splitlines()) == len(SAMPLES) + 3
    for char in SAMPLES:
        assert f"vm-{ord(char):05x}\\" in told.out, "what is not plain is written out"
    assert "db\\u2028✔ all proved" in told.out
    for name in (EVIL, OTHER):
        seen = shell.good("inspect", name)
        assert_plain(seen.out, seen.err)


def test_json_has_the_names_as_they_are_in_ascii(shell: Shell) -> None:
    listed = shell.good("list", "--json")
    assert listed.out.isascii()
    assert {event["name"] for event in listed.events} == {EVIL, OTHER, *map(name_of, SAMPLES)}
    (seen,) = shell.good("inspect", EVIL, "--json").events
    assert seen["annotation"] == f"note {SAMPLES}"


@pytest.mark.parametrize("kind", ["qcow2", "ova", "ovf"])
def test_an_export_shows_and_writes_nothing_else(shell: Shell, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    done = shell.good("export", EVIL, "-o", out, "--format", kind)
    assert_plain(done.out, done.err)
    for path in out.iterdir():
        assert_plain(path.name)
        assert "\n" not in path.name
    manifest = json.loads((out / "artifact-manifest.json").read_text())
    assert manifest["source"]["vm_name"] == EVIL
    verified = shell.good("verify", out)
    assert_plain(verified.out, verified.err)
    if kind != "qcow2":
        (source,) = out.glob(f"*.{kind}")
        made = shell.good("convert", source, "-o", tmp_path / "again", "--format", "raw")
        assert_plain(made.out, made.err, *(path.name for path in (tmp_path / "again").iterdir()))
        shell.good("verify", tmp_path / "again")


def test_many_machines_their_folders_and_their_failures(shell: Shell, tmp_path: Path) -> None:
    shell.server.set_faults(Fault(FaultKind.CORRUPT, disk=f"{OTHER}:0", times=None))
    out = tmp_path / "all"
    done = shell("export", EVIL, OTHER, name_of("\u202e"), name_of("\xad"), "-o", out, "--retries", "0")
    assert done.status == 10
    assert_plain(done.out, done.err, *(path.name for path in out.iterdir()))
    assert_plain(*(shell.good("status").out, shell.good("status").err, shell.good("cleanup").err))


@pytest.mark.parametrize("wanted", ["no such \u202e machine \x1b[31m\u2028", "vm-\udcff", EVIL + "?"])
def test_errors_repeat_what_was_typed_safely(shell: Shell, wanted: str) -> None:
    failed = shell("export", wanted, "-o", "/nonexistent/\u202ex")
    assert failed.status in (2, 5)
    assert_plain(failed.out, failed.err)


def test_debug_logs_are_of_one_line_a_message(shell: Shell) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers[:] = []
    try:
        shell.good("list", "--debug")
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        logging.getLogger("hypersdk.test").debug("name: %s", "a\nFORGED\u2028\u202e")
        logged = handler.stream.getvalue()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert_plain(logged)
    assert logged.endswith("name: a\\nFORGED\\u2028\\u202e\n")
