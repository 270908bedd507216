"""What the terminal can show: no colours where they are not wanted, ASCII where the locale has nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len

import hypersdk.cli
from hypersdk.cli.interactive import BANNER
from hypersdk.cli.terminal import GLYPHS, charset_of, wants_colour
from hypersdk.simulator import Simulator
from hypersdk.units import MiB
from tests.support.apiserver import Api
from tests.support.cli.commandline import environment, program, terminal
from tests.support.cli.hyperctl import hyperctl_of
from tests.support.cli.shell import login, small
from tests.support.simulator import SimulatorFactory

COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])(?:;[0-9]+)*m")
NAMES = ("Büro Zürich", "監視サーバー", "✔ done", "a\x07b", "x" * 70)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "0"}, False),
        ({"NO_COLOR": "no"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm"}, True),
    ],
)
def test_colours_are_wanted_unless_told_otherwise(environ: dict[str, str], wanted: bool) -> None:
    assert wants_colour(environ) is wanted


@pytest.mark.parametrize(
    ("environ", "opened", "charset"),
    [
        ({}, "utf-8", "utf-8"),
        ({"LC_ALL": "C"}, "utf-8", "ascii"),
        ({"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, "utf-8", "ascii"),
        ({"LANG": "C"}, "utf-8", "ascii"),
        ({"LANG": "POSIX", "LC_CTYPE": "C.UTF-8"}, "utf-8", "ascii"),  # as Python leaves it
        ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, "utf-8", "utf-8"),
        ({"LC_CTYPE": "C.UTF-8"}, "utf-8", "utf-8"),
        ({"LANG": "C.UTF-8"}, "utf-8", "utf-8"),
        ({"LC_ALL": "", "LANG": "en_US.utf8"}, "utf-8", "utf-8"),
        ({"LANG": "de_DE.ISO-8859-1"}, "utf-8", "iso8859-1"),
        ({"LANG": "de_DE.ISO8859-15@euro"}, "utf-8", "iso8859-15"),
        ({"LANG": "C.UTF-8"}, "iso8859-1", "iso8859-1"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "utf-8", "utf-8"),
        *[({"LANG": f"en_US.{odd}"}, "utf-8", "utf-8") for odd in ("nonsense", "zlib", "hex", "utf-16", "idna", "")],
    ],
)
def test_the_charset_is_the_locales(environ: dict[str, str], opened: str, charset: str) -> None:
    assert charset_of(environ, opened) == charset


def texts_of(path: Path) -> Iterator[str]:
    """The string literals of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    expressions = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in expressions:
            yield node.value


def test_every_glyph_of_the_displays_has_an_ascii_form_of_one_cell() -> None:
    here = Path(hypersdk.cli.__path__[0])
    used = {char for path in here.rglob("*.py") for text in texts_of(path) for char in text if not char.isascii()}
    used -= set("".join(BANNER))
    assert "✔" in used
    for glyph in used:
        assert len(GLYPHS[glyph]) == 1 == cell_len(glyph), glyph
        assert GLYPHS[glyph].isascii()


@pytest.fixture
def server(simulator: SimulatorFactory) -> Simulator:
    return simulator(machines=tuple(small(name, power="poweredOn") for name in NAMES), rate_bytes_s=4 * MiB)


def login_of(server: Simulator, home: Path, **more: str) -> dict[str, str]:
    pairs = {key: value for key, value in login(server, home).items() if key != "HOME"}
    return environment(home, **pairs, **more)


COMMANDS = {
    "list": ("list",),
    "plan": ("export", NAMES[1], "-o", "x", "--dry-run"),
    "export": ("export", NAMES[1], "-o", "x"),
    "error": ("inspect", "no such machine"),
    "help": ("export", "--help"),
    "usage": ("export", "--no-such-flag"),
}


@pytest.mark.parametrize("value", ["1", "yes", "0"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_color_means_no_colour(
    server: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for extra, coloured in (({}, True), ({"NO_COLOR": value, "FORCE_COLOR": "1"}, False)):
        env = login_of(server, tmp_path, **extra)
        with terminal(program(*COMMANDS[command], *["--force"] * (command == "export")), env, (100, 30)) as screen:
            screen.finish(60)
        if command not in ("help",):
            assert bool(COLOUR.search(screen.shown)) is coloured, screen.shown


@pytest.mark.parametrize("name", ["hyperctl", "hypervisord"])
@pytest.mark.parametrize("arguments", [("--no-such-flag",), ("--help",), ("query", "--url", "http://127.0.0.1:1")])
def test_the_other_programs_heed_no_color_and_the_locale(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    module = [sys.executable, "-c", f"from hypersdk.cli.{name}.app import program; raise SystemExit(program.run())"]
    for extra, coloured in (({}, arguments != ("--help",)), ({"NO_COLOR": "yes"}, False)):
        with terminal([*module, *arguments], environment(tmp_path, **extra)) as screen:
            screen.finish()
        assert bool(COLOUR.search(screen.shown)) is coloured, screen.shown
    done = subprocess.run(
        [*module, "Büro–監視"], env={"HOME": str(tmp_path), "LC_ALL": "C"}, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.isascii()
    assert b"B\\xfcro" in done.stderr


def test_yaml_stays_the_same_document_in_another_locale(api: Api, tmp_path: Path) -> None:
    job = api.add_job(name="Büro – 監視")
    ctl = hyperctl_of(api, tmp_path / "home")
    code = "from hypersdk.cli.hyperctl.app import program; raise SystemExit(program.run())"
    for locale in ("C", "C.UTF-8", "de_DE.ISO-8859-1"):
        env = {**ctl.env, "PATH": "/usr/bin:/bin", "LC_ALL": locale}
        command = [sys.executable, "-c", code, "get", job.id, "--output", "yaml"]
        done = subprocess.run(command, env=env, capture_output=True, check=True)
        assert done.stdout.isascii() is (locale != "C.UTF-8")
        assert yaml.safe_load(done.stdout.decode())["name"] == "Büro – 監視"


def test_the_picker_has_no_colour_either(server: Simulator, tmp_path: Path) -> None:
    for extra, coloured in (({}, True), ({"NO_COLOR": "yes"}, False), ({"NO_COLOR": ""}, True)):
        with terminal(program(), login_of(server, tmp_path, **extra), (100, 30)) as screen:
            screen.wait_for("5 of 5")
            screen.type("\t\x10\r")
            screen.wait_for("ISO images")
            screen.type("\x03")
            screen.finish()
        assert bool(COLOUR.search(screen.shown)) is coloured, screen.shown


def test_force_color_colours_a_pipe_and_no_color_is_stronger(server: Simulator, tmp_path: Path) -> None:
    for extra, escapes in (({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)):
        env = login_of(server, tmp_path, **extra)
        done = subprocess.run(program("list"), env=env, capture_output=True, check=True)
        assert (b"\x1b[" in done.stdout) is escapes, extra


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LANG": "POSIX"}, {"LC_ALL": "de_DE.ISO-8859-1"}])
@pytest.mark.parametrize("command", COMMANDS)
def test_only_characters_of_the_locale_are_written(
    server: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, locale: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    env = {**login_of(server, tmp_path), "LANG": "C.UTF-8", **locale}
    done = subprocess.run(program(*COMMANDS[command]), env=env, capture_output=True, check=False)
    both = done.stdout + done.stderr
    assert b"Traceback" not in both
    assert b"internal error" not in both
    if locale.get("LC_ALL") == "de_DE.ISO-8859-1":
        assert ("Büro Zürich".encode("latin-1") in both) is (command == "list")
        assert "ü".encode() not in both
    else:
        assert both.isascii(), both
    if command in ("list", "plan", "export"):
        assert b"\\u76e3\\u8996" in both, "a name is written out in full"
    if command == "plan":
        assert b"+-" in both, "a box"
    if command == "export":
        assert b"\n* \\u76e3" in b"\n" + done.stdout, "a check mark"


def test_columns_stay_aligned_where_names_are_written_as_escapes(server: Simulator, tmp_path: Path) -> None:
    env = {**login_of(server, tmp_path), "LC_ALL": "C"}
    with terminal(program("list"), env, (100, 30)) as screen:
        screen.finish()
    header, *rows = [line for line in screen.text.splitlines() if "Power" in line or " on " in line]
    assert len(rows) == len(NAMES)
    assert {row.index(" on ") + 1 for row in rows} == {header.index("Power")}


def test_the_picker_in_ascii(server: Simulator, tmp_path: Path) -> None:
    env = {**login_of(server, tmp_path), "LC_ALL": "C"}
    with terminal(program(), env, (120, 30)) as screen:
        screen.wait_for("5 of 5")
        screen.type("\t")
        screen.wait_for("1 marked")
        screen.type("\r")
        screen.wait_for("ISO images")
        screen.type("\x03")
        screen.finish()
    assert screen.shown.isascii()
    assert "HyperSDK" in screen.text
    assert "B\\xfcro Z\\xfcrich" in screen.text
